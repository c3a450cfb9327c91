//! (a) The raw limit: a consumer with the daemon's settings that only counts bytes.

use super::broker::{Broker, PARTITIONS, Sent};
use super::cpu;
use super::report::Report;
use anyhow::Result;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// MB per CPU-second of a consumer that does nothing else.
pub fn measure(broker: &Broker, sent: &Sent, report: &mut Report) -> Result<f64> {
    let consumer: BaseConsumer = broker
        .client()
        .set("group.id", "ingest-bench-raw")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.message.max.bytes", "4194304")
        .set("fetch.queue.backoff.ms", "20")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&sent.topic, partition, Offset::Beginning)?;
    }
    let id = std::process::id();
    let (wall, before) = (Instant::now(), cpu::process(id)?);
    consumer.assign(&all)?;
    let (mut messages, mut bytes) = (0, 0);
    while messages < sent.messages {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            bytes += message?.payload_len() as u64;
            messages += 1;
        }
    }
    anyhow::ensure!(bytes == sent.bytes, "the raw consumer read {bytes} of {} bytes", sent.bytes);
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), (cpu::process(id)? - before).as_secs_f64());
    let rate = sent.megabytes() / cpu;
    report.figure("raw consumer: throughput", sent.megabytes() / wall, "MB/s");
    report.figure("raw consumer: per CPU-second", rate, "MB/CPU-s");
    Ok(rate)
}
