//! SIGKILL at each state and at each point inside register and publish: one version, each event once, the same adapter.

use super::rig::Rig;
use crate::support::lake::count;
use pelton::domain::{CycleState, Trigger};
use pelton::lake::TableName;
use std::os::unix::process::ExitStatusExt as _;

/// In the order of a cycle. A run writes `collect` first, then the states of the steps that are not done.
const KILLS: &[&str] = &[
    "in-state:1",     // collect
    "in-state:2",     // explore
    "in-explore:1",   // in the middle of it
    "in-state:3",     // score
    "in-state:4",     // optimize
    "in-optimize:1",  // in the middle of it
    "in-state:5",     // evaluate
    "in-state:3",     // gate
    "in-state:4",     // register
    "after-claim",    // the version has a number and no files
    "after-files",    // it has files and no row
    "after-register", // it has rows, and its cycle does not know
    "in-state:5",     // publish
    "before-event",   // no event is begun
    "in-event",       // its transaction is open
    "after-event",    // the first event is there, the second is owed
];

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_killed_at_each_state_and_point_ends_in_one_version_and_each_event_once() {
    let (broken, whole) = (Rig::new("", "").await, Rig::new("", "").await);
    let (id, unbroken) = (broken.cycle(Trigger::Hand, 16).await, whole.cycle(Trigger::Hand, 16).await);
    let resume = |point: &str| {
        let mut command = broken.command(&["cycle", "resume", id.as_str()]);
        command.env("PELTON_FAILPOINT", point).output().unwrap()
    };
    for point in KILLS {
        let ran = resume(point);
        assert_eq!(ran.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    let ran = broken.pelton(&["cycle", "resume", id.as_str()]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(whole.pelton(&["cycle", "resume", unbroken.as_str()]).status.success());

    assert_eq!(broken.state(&id).await, CycleState::Done);
    let versions = broken.versions().await;
    assert!(["v1 promoted", "v1 rejected"].contains(&versions[1].as_str()) && versions.len() == 2, "{versions:?}");
    assert_eq!((&versions, &broken.announced().await), (&whole.versions().await, &versions));
    let adapter =
        |rig: &Rig| std::fs::read(rig.dir.path().join("lake/models/sql-tiny/v1/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&broken), adapter(&whole), "the same adapter, byte for byte");
    for (table, rows) in [(TableName::Candidate, 32), (TableName::TrainingWindow, 24)] {
        assert_eq!(count(&broken.lake, table, "").await, rows, "{table}");
    }
    let (ours, theirs) =
        (count(&broken.lake, TableName::Evaluation, "").await, count(&whole.lake, TableName::Evaluation, "").await);
    assert_eq!(ours, theirs);
    assert!(broken.pelton(&["audit"]).status.success());
}
