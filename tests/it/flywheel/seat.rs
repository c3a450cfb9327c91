//! One scheduler among many daemons, and zombies.

use super::rig::{PATIENCE, Rig};
use crate::support::kafka::{Daemon, until};
use pelton::daemon::cycle;
use pelton::domain::{CycleState, Trigger};

/// Two daemons of one lake and group; both logs are apart.
fn two(rig: &Rig) -> [(Daemon, std::path::PathBuf); 2] {
    ["a", "b"].map(|name| {
        let path = rig.dir.path().join(format!("{name}.toml"));
        std::fs::copy(&rig.path, &path).unwrap();
        (Daemon::start(&path), path)
    })
}

fn leads(path: &std::path::Path) -> bool {
    let log = std::fs::read_to_string(path.with_extension("log")).unwrap_or_default();
    log.matches("starts the cycles").count() > log.matches("starts no more cycles").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_scheduler_dies_or_sleeps_is_replaced_and_its_cycle_ends_once() {
    let rig = Rig::new("", "").await;
    let mut daemons = two(&rig);
    until("one of them has the seat", PATIENCE, async || daemons.iter().any(|(_, path)| leads(path))).await;
    let first = daemons.iter().position(|(_, path)| leads(path)).unwrap();
    assert!(!leads(&daemons[1 - first].1), "one seat");

    // The owner of the seat sleeps in the middle of a cycle, and its child does not.
    let id = rig.cycle(Trigger::Queued, 120).await;
    until("the cycle runs", PATIENCE, async || rig.state(&id).await >= CycleState::Explore).await;
    daemons[first].0.signal("STOP");
    until("the other has the seat", PATIENCE, async || leads(&daemons[1 - first].1)).await;
    rig.reaches(&id, CycleState::Done, &mut daemons[1 - first].0).await;
    // The zombie wakes and finds that it has nothing to say.
    daemons[first].0.signal("CONT");
    until("the zombie sees it", PATIENCE, async || !leads(&daemons[first].1)).await;

    // Now the owner is killed in the middle of a cycle.
    let second = rig.cycle(Trigger::Queued, 60).await;
    until("the second runs", PATIENCE, async || rig.state(&second).await >= CycleState::Explore).await;
    daemons[1 - first].0.kill();
    until("the second is done", PATIENCE, async || rig.state(&second).await == CycleState::Done).await;
    let versions = rig.versions().await;
    let names: Vec<&str> = versions.iter().map(|v| v.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["v1", "v1", "v2", "v2"], "{versions:?}");
    assert_eq!(rig.announced().await, versions);
    assert!(rig.pelton(&["audit"]).status.success());
}

/// Its predecessor's raise of the fence landed after its own, and Kafka has nothing more to say.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_the_seat_that_finds_itself_fenced_raises_the_fence_anew_and_goes_on() {
    let rig = Rig::new("", "").await;
    let mut daemon = Daemon::start(&rig.path);
    until("it has the seat", PATIENCE, async || leads(&rig.path)).await;
    let late = rig.lake.raise_fence("scheduler").await.unwrap();
    let id = rig.cycle(Trigger::Queued, 16).await;
    rig.reaches(&id, CycleState::Done, &mut daemon).await;
    assert!(rig.lake.check_fences(&[late]).await.unwrap_err().is_fenced());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_taken_over_can_write_neither_a_state_nor_a_version() {
    let rig = Rig::new("", "").await;
    let id = rig.cycle(Trigger::Queued, 16).await;
    let old = rig.lake.raise_fence("scheduler").await.unwrap();
    let event = rig.events(&id).await.pop().unwrap();
    rig.lake.append_cycle_fenced(&event, std::slice::from_ref(&old)).await.unwrap();
    // Another process raises it: another handle on the lake.
    let other = pelton::daemon::open_lake(&rig.config()).await.unwrap();
    let new = other.raise_fence("scheduler").await.unwrap();
    assert!(new.token > old.token);
    let fenced = rig.lake.append_cycle_fenced(&event, std::slice::from_ref(&old)).await.unwrap_err();
    assert!(fenced.is_fenced(), "{fenced}");
    let changed = rig.lake.change_versions(&rig.model, std::slice::from_ref(&old), |_| unreachable!("it is not asked"));
    assert!(changed.await.unwrap_err().is_fenced());
    assert!(cycle::fail(&rig.lake, &id, 1, "late", std::slice::from_ref(&old)).await.is_err());
    other.append_cycle_fenced(&event, &[new]).await.unwrap();

    // A whole cycle of the scheduler that was: it ends with the status that says so, and registers nothing.
    let fence = format!("cycle/{id}");
    let rightful = other.raise_fence(&fence).await.unwrap();
    let token = old.token.to_string();
    let ran = rig.pelton(&["cycle", "resume", id.as_str(), "--token", &token]);
    assert_eq!(ran.status.code(), Some(4), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(rig.versions().await, [""; 0]);
    assert_eq!(other.raise_fence(&fence).await.unwrap().token, rightful.token + 1, "whoever runs it by right goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_many_take_at_once_are_all_different() {
    let rig = Rig::new("", "").await;
    let config = rig.config();
    let takers = (0..4).map(|_| {
        let config = config.clone();
        tokio::spawn(async move {
            let lake = pelton::daemon::open_lake(&config).await.unwrap();
            let mut tokens = Vec::new();
            for _ in 0..5 {
                tokens.push(lake.raise_fence("scheduler").await.unwrap().token);
            }
            tokens
        })
    });
    let all = futures::future::join_all(takers).await.into_iter().flat_map(Result::unwrap);
    let mut all: Vec<i64> = all.collect();
    all.sort_unstable();
    assert_eq!(all, (1..=20).collect::<Vec<_>>());
}
