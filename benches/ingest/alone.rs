//! (c) Decode alone and (d) Parquet encode alone, each on one thread, on messages that are in memory.

use super::corpus::Corpus;
use super::report::Report;
use super::{Options, cpu};
use anyhow::Result;
use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use pelton::codec;
use pelton::domain::{Origin, Row, RowKind, Timestamp};
use pelton::lake::{self, InferenceLogBuilder, TableName, TextMemory};

/// Messages that are decoded again and again.
const SAMPLE_BYTES: usize = 64 << 20;
const ROUNDS: usize = 8;
/// A batch is handed over at this many bytes of messages.
const BATCH_BYTES: usize = 8 << 20;

pub fn measure(corpus: &Corpus, options: &Options, report: &mut Report) -> Result<()> {
    let mut messages = corpus.messages(2);
    let (mut sample, mut bytes) = (Vec::new(), 0);
    while bytes < SAMPLE_BYTES {
        let message = messages.message()?;
        bytes += message.len();
        sample.push(message);
    }
    // The first round warms the caches and the allocator up.
    let memory = lake::text_memory(SAMPLE_BYTES * 2);
    let mut batches = Vec::new();
    decode(&sample, &memory, &mut |batch| batches.push(batch))?;
    let megabytes = bytes as f64 * ROUNDS as f64 / 1e6;
    if options.wants("decode") {
        let rounds =
            || (0..ROUNDS).try_for_each(|_| decode(&sample, &memory, &mut |batch| lake::reuse(&memory, batch)));
        let ((), _, cpu) = cpu::timed(rounds)?;
        report.figure("decode alone, bytes to Arrow", megabytes / cpu.as_secs_f64(), "MB/CPU-s");
    }
    if options.wants("encode") {
        let mut stored = 0;
        let rounds = || (0..ROUNDS / 2).try_for_each(|_| encode(&batches).map(|bytes| stored = bytes));
        let ((), _, cpu) = cpu::timed(rounds)?;
        let arrow: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        report.figure("encode alone, per byte of message", megabytes / 2.0 / cpu.as_secs_f64(), "MB/CPU-s");
        report.figure("encode alone, Arrow bytes per byte of message", arrow as f64 / bytes as f64, "");
        report.figure("encode alone, stored bytes per byte of message", stored as f64 / bytes as f64, "");
    }
    Ok(())
}

/// `take` is given the batches; as in the daemon, those that are done give their memory back.
fn decode(sample: &[Vec<u8>], memory: &TextMemory, take: &mut dyn FnMut(RecordBatch)) -> Result<()> {
    let (mut builder, mut bytes) = (InferenceLogBuilder::new().with_memory(memory), 0);
    let ingest_time = Timestamp::from_millis(1_795_341_600_000);
    for (offset, message) in sample.iter().enumerate() {
        let (topic, topic_id, offset) = ("logs", "0", offset as i64);
        let (partition, record, time, replay_time) = (0, 0, None, None);
        let origin = Origin { topic, topic_id, partition, offset, record, time, ingest_time, replay_time };
        match codec::decode(RowKind::Inference, Some(message), 16 << 20)? {
            Row::Inference(row) => builder.append(&row, &origin),
            other => anyhow::bail!("not a log: {other:?}"),
        }
        bytes += message.len();
        if bytes >= BATCH_BYTES {
            take(builder.finish());
            bytes = 0;
        }
    }
    take(builder.finish());
    Ok(())
}

/// Bytes of a Parquet file of the batches.
fn encode(batches: &[RecordBatch]) -> Result<usize> {
    let properties = TableName::InferenceLog.writer_properties();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?.len())
}
