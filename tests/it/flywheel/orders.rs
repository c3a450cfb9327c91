//! What people tell cycles, and what follows from tries that fail.

use super::rig::{PATIENCE, Rig};
use crate::support::kafka::{Daemon, until};
use pelton::domain::{CycleState, Trigger};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_cycle_stops_within_seconds_says_so_and_can_be_tried_again() {
    // So much that it cannot be done before it is cancelled.
    let rig = Rig::new("", "").await;
    let id = rig.cycle(Trigger::Hand, 400).await;
    let mut running = rig.command(&["cycle", "resume", id.as_str()]).stderr(Stdio::null()).spawn().unwrap();
    until("it explores", PATIENCE, async || rig.state(&id).await == CycleState::Explore).await;
    let busy = rig.pelton(&["cycle", "resume", id.as_str()]);
    assert!(!busy.status.success() && String::from_utf8_lossy(&busy.stderr).contains("at work"), "{busy:?}");

    let asked = Instant::now();
    let said = rig.json(&["cycle", "cancel", id.as_str(), "--json"]);
    assert_eq!(said["state"], "cancelled", "{said}");
    assert_eq!(running.wait().unwrap().code(), Some(3));
    // A bound on a promise to people: seconds, with room for a crowded machine.
    assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
    assert!(!rig.pelton(&["cycle", "cancel", id.as_str()]).status.success(), "it has ended already");
    assert!(!rig.pelton(&["cycle", "resume", id.as_str()]).status.success());

    // Opened again it goes on with what it has explored; and can be cancelled where nobody runs it.
    assert_eq!(rig.json(&["cycle", "retry", id.as_str(), "--queue", "--json"])["cycle"], id.as_str());
    assert_eq!(rig.state(&id).await, CycleState::Requested);
    assert_eq!(rig.json(&["cycle", "cancel", id.as_str(), "--json"])["attempt"], 2);
    assert_eq!(rig.versions().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_cycle_is_tried_again_then_parked_with_its_error_and_its_log_is_kept() {
    let rig = Rig::new("", "schedule = { retries_max = 1, retry_pause_seconds = 1 }").await;
    std::fs::rename(rig.dir.path().join("shop"), rig.dir.path().join("gone")).unwrap();
    let id = rig.cycle(Trigger::Queued, 16).await;
    let mut daemon = Daemon::start(&rig.path);
    rig.reaches(&id, CycleState::Parked, &mut daemon).await;
    let events = rig.events(&id).await;
    let failed = |e: &&pelton::domain::CycleEvent| e.state == CycleState::Failed;
    assert_eq!(events.iter().filter(failed).map(|e| e.attempt).collect::<Vec<_>>(), [1, 2]);
    let last: Value = serde_json::from_str(&events.last().unwrap().detail).unwrap();
    assert!(last["error"].as_str().unwrap().contains("shop"), "{last}");
    let log = rig.pelton(&["cycle", "logs", id.as_str()]);
    assert!(String::from_utf8_lossy(&log.stdout).contains("shop"), "{log:?}");

    // It blocks nothing: what is asked for next runs. Mended, the parked one ends in a version.
    std::fs::rename(rig.dir.path().join("gone"), rig.dir.path().join("shop")).unwrap();
    let next = rig.cycle(Trigger::Queued, 16).await;
    rig.reaches(&next, CycleState::Done, &mut daemon).await;
    rig.json(&["cycle", "retry", id.as_str(), "--queue", "--json"]);
    rig.reaches(&id, CycleState::Done, &mut daemon).await;
    assert!(daemon.stop().success());
    assert_eq!(rig.versions().await.len(), 4);
    assert_eq!(rig.announced().await, rig.versions().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_takes_too_much_memory_is_ended_and_says_what_to_change() {
    let rig = Rig::new("[cycle]\nmemory_bytes_max = 20000000", "schedule = { retries_max = 0 }").await;
    let id = rig.cycle(Trigger::Queued, 60).await;
    let mut daemon = Daemon::start(&rig.path);
    rig.reaches(&id, CycleState::Parked, &mut daemon).await;
    assert!(daemon.stop().success());
    let error = pelton::daemon::cycle::standing(&rig.lake, &id).await.unwrap().error.unwrap();
    for part in ["cycle.memory_bytes_max", "optimize.batch_tokens_max", "may have 19"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_runs_the_cycle_elsewhere_and_its_lines_are_kept() {
    let launcher = r#"[cycle]
launcher = ["sh", "-c", "echo launched for {model}; exec {pelton} cycle resume {cycle} --token {token} --config {config}"]"#;
    let rig = Rig::new(launcher, "").await;
    let id = rig.cycle(Trigger::Queued, 16).await;
    let mut daemon = Daemon::start(&rig.path);
    rig.reaches(&id, CycleState::Done, &mut daemon).await;
    assert!(daemon.stop().success());
    let log = rig.pelton(&["cycle", "logs", id.as_str()]);
    assert!(String::from_utf8_lossy(&log.stdout).contains("launched for sql-tiny"), "{log:?}");
    assert_eq!(rig.announced().await, rig.versions().await);
}

/// On a real Ray cluster of this machine: the cycle ends in its version; and a daemon that is asked to end has it end in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_runs_on_ray_and_is_ended_there() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/ray_launcher.py");
    let launcher = format!(
        "[cycle]\nlauncher = ['{}', '{script}', '{{pelton}}', 'cycle', 'resume', '{{cycle}}', '--token', '{{token}}', \
         '--config', '{{config}}']",
        crate::support::python::program()
    );
    let rig = Rig::new(&launcher, "").await;
    let short = rig.cycle(Trigger::Queued, 16).await;
    let mut daemon = Daemon::start(&rig.path);
    rig.reaches(&short, CycleState::Done, &mut daemon).await;
    let log = rig.pelton(&["cycle", "logs", short.as_str()]);
    assert!(String::from_utf8_lossy(&log.stdout).contains("ray: node"), "{log:?}");
    assert_eq!(rig.announced().await, rig.versions().await);

    let long = rig.cycle(Trigger::Queued, 400).await;
    rig.reaches(&long, CycleState::Explore, &mut daemon).await;
    assert!(daemon.stop().success());
    // It is open, and nobody is at work on it any more.
    assert_eq!(rig.state(&long).await, CycleState::Explore);
    let shown = rig.pelton(&["cycle", "logs", long.as_str()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("interrupted"), "{shown:?}");
    assert_eq!(rig.json(&["cycle", "cancel", long.as_str(), "--json"])["state"], "cancelled");
}

/// A process that dies before its first word fails its own try, not the one before it; one that leaves its cycle as it is, is
/// not started again at once.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_never_begin_are_counted_and_parked() {
    let mark = "echo x >> $(dirname {config})/started; ";
    let launcher = |code: u8| format!("[cycle]\nlauncher = [\"sh\", \"-c\", \"{mark}exit {code} # {{cycle}}\"]");
    let rig = Rig::new(&launcher(1), "schedule = { retries_max = 2, retry_pause_seconds = 1 }").await;
    let id = rig.cycle(Trigger::Queued, 16).await;
    let mut daemon = Daemon::start(&rig.path);
    rig.reaches(&id, CycleState::Parked, &mut daemon).await;
    assert!(daemon.stop().success());
    let failed = |e: &&pelton::domain::CycleEvent| e.state == CycleState::Failed;
    assert_eq!(rig.events(&id).await.iter().filter(failed).map(|e| e.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    let started = std::fs::read_to_string(rig.dir.path().join("started")).unwrap();
    assert_eq!(started.lines().count(), 3);

    let rig = Rig::new(&launcher(5), "").await;
    let id = rig.cycle(Trigger::Queued, 16).await;
    let mut daemon = Daemon::start(&rig.path);
    let started = rig.dir.path().join("started");
    until("it was started", PATIENCE, async || {
        daemon.assert_alive(&rig.path);
        started.exists()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(std::fs::read_to_string(&started).unwrap().lines().count(), 1, "it is left alone for a while");
    assert!(!rig.state(&id).await.is_end());
    assert!(daemon.stop().success());
}

/// A broker that takes no events holds a cycle up for `publish.wait_seconds`; the version serves, so that a cancellation comes
/// too late, and the events are sent by whoever can.
#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_whose_events_nobody_takes_ends_in_its_version_and_they_are_sent_later() {
    let rig = Rig::new("", "").await;
    let right = std::fs::read_to_string(&rig.path).unwrap().replace("[publish]\n", "[publish]\nwait_seconds = 8\n");
    let brokers = format!("brokers = '{}'", crate::support::kafka::brokers());
    assert!(right.contains(&brokers));
    std::fs::write(&rig.path, right.replace(&brokers, "brokers = '127.0.0.1:1'")).unwrap();
    let id = rig.cycle(Trigger::Queued, 16).await;
    let mut running = rig.command(&["cycle", "resume", id.as_str()]).stderr(Stdio::null()).spawn().unwrap();
    until("it publishes", PATIENCE, async || rig.state(&id).await == CycleState::Publish).await;
    let late = rig.pelton(&["cycle", "cancel", id.as_str(), "--json"]);
    let said: Value = serde_json::from_slice(&late.stdout).unwrap_or_else(|e| panic!("{e}: {late:?}"));
    assert_eq!((said["state"].as_str(), late.status.success()), (Some("done"), false), "{said}");
    assert!(running.wait().unwrap().success());
    let last = rig.events(&id).await.pop().unwrap();
    let detail: Value = serde_json::from_str(&last.detail).unwrap();
    assert_eq!((last.state, &detail["announced"]), (CycleState::Done, &Value::Bool(false)), "{detail}");

    std::fs::write(&rig.path, right).unwrap();
    let daemon = Daemon::start(&rig.path);
    until("it is told", PATIENCE, async || rig.announced().await == rig.versions().await).await;
    assert!(daemon.stop().success());
    assert_eq!(rig.versions().await.len(), 2);
}
