//! What a Kafka partition gives a commit, made from its offsets alone.

use super::kafka;
use pelton::codec;
use pelton::domain::{DeadLetterCode, DeadLetterRow, InferenceRow, Origin, Row, RowKind, Timestamp};
use pelton::lake::{Committer, DeadLetterBuilder, InferenceLogBuilder, Lake, Part, PartitionKey};
use std::ops::Range;

/// A partition of the topic `logs`.
pub fn key(partition: i32) -> PartitionKey {
    PartitionKey { topic: "logs".to_owned(), generation: "0".to_owned(), partition }
}

/// The offsets of a range as rows; those that end in 7 are dead letters.
pub fn part(partition: i32, range: Range<i64>) -> Part {
    part_with(partition, range, |_, _| {})
}

/// The same with each row changed as told, by its offset.
pub fn part_with(partition: i32, range: Range<i64>, edit: impl Fn(i64, &mut InferenceRow<'_>)) -> Part {
    let (mut rows, mut dead) = (InferenceLogBuilder::new(), DeadLetterBuilder::new());
    for offset in range.clone() {
        let origin = Origin {
            topic: "logs",
            topic_id: "0",
            partition,
            offset,
            time: None,
            ingest_time: Timestamp::from_millis(offset),
            record: 0,
            replay_time: None,
        };
        if offset % 10 == 7 {
            let code = DeadLetterCode::NotJson;
            let row = DeadLetterRow { code, reason: "x".to_owned(), key: None, payload: Some(b"x"), headers: vec![] };
            dead.append(&row, &origin);
            continue;
        }
        let bytes = kafka::log(u64::try_from(offset).unwrap());
        match codec::decode(RowKind::Inference, Some(&bytes), 1 << 20).unwrap() {
            Row::Inference(mut row) => {
                edit(offset, &mut row);
                rows.append(&row, &origin);
            }
            other => panic!("{other:?}"),
        }
    }
    let (rows, dead_letters) = (vec![rows.finish()], vec![dead.finish()]);
    Part { key: key(partition), start: range.start, end: range.end, rows, dead_letters }
}

/// The committer of a process.
pub async fn committer(lake: &Lake) -> Committer {
    lake.committer("default", "cluster").await.unwrap()
}

/// The audit is clean, and the partitions are these: number, first offset, next offset.
pub async fn assert_exact(lake: &Lake, partitions: &[(i32, i64, i64)]) {
    let audit = lake.audit().await.unwrap();
    assert!(audit.is_clean(), "{audit:#?}");
    let found: Vec<_> = audit.partitions.iter().map(|p| (p.key.partition, p.first, p.next)).collect();
    assert_eq!(found, partitions);
    for p in &audit.partitions {
        assert_eq!(p.rows + p.dead_letters, u64::try_from(p.next - p.first).unwrap(), "{p:?}");
    }
}
