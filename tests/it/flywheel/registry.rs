//! Versions change hands by decisions on the newest state, and by nobody twice.

use super::rig::Rig;
use pelton::domain::{CycleId, Interval, Timestamp, Trigger, Version, VersionNumber, VersionRef, VersionState};
use pelton::publish::transition::{self, Refusal, archive, beyond, promote, roll_back};

pub fn version(number: u32, state: VersionState, at: i64) -> Version {
    Version {
        reference: VersionRef { model: "sql-tiny".parse().unwrap(), number: VersionNumber::new(number).unwrap() },
        state,
        time: Timestamp::from_micros(1_795_348_800_000_000 + at),
        cycle: CycleId::new("c-1").unwrap(),
        parent: None,
        base_hash: "ab".repeat(32),
        location: "file:///lake/models/sql-tiny/v1".to_owned(),
        adapter_hash: "cd".repeat(32),
        holdout_prompts: 40,
        champion_reward: 0.25,
        challenger_reward: 0.5,
        gain: Interval { mean: 0.25, low: 0.1, high: 0.4 },
        reason: "r".to_owned(),
    }
}

fn name(number: u32) -> VersionRef {
    version(number, VersionState::Promoted, 0).reference
}

fn champion(versions: &[Version]) -> Option<u32> {
    transition::champion(versions).map(|v| v.reference.number.get())
}

#[test]
fn a_rollback_returns_to_the_version_before_and_at_last_to_the_base() {
    use VersionState::Promoted;
    let mut all = vec![version(1, Promoted, 1), version(2, Promoted, 2), version(3, VersionState::Rejected, 3)];
    let now = Timestamp::from_micros(1_795_348_800_000_100);
    assert_eq!(champion(&all), Some(2));
    assert!(matches!(roll_back(&all, &name(1), None, "r", now), Err(Refusal::NotChampion { .. })));
    assert!(matches!(archive(&all, &name(2), "r", now), Err(Refusal::Champion(_))));
    assert!(matches!(promote(&all, &name(2), None, "r", now), Err(Refusal::Already { .. })));
    assert!(matches!(promote(&all, &name(9), None, "r", now), Err(Refusal::Unknown(_))));
    assert!(matches!(promote(&all, &name(3), Some(Some(&name(1))), "r", now), Err(Refusal::Moved { .. })));

    let mut step = |changes: Vec<Version>, states: &[VersionState], expected: Option<u32>| {
        assert_eq!(changes.iter().map(|v| v.state).collect::<Vec<_>>(), states);
        let after = all.last().unwrap().time.micros();
        all.extend((1..).zip(changes).map(|(i, v)| Version { time: Timestamp::from_micros(after + i), ..v }));
        assert_eq!(champion(&all), expected);
        all.clone()
    };
    let all = step(vec![], &[], Some(2));
    let all =
        step(roll_back(&all, &name(2), None, "bad", now).unwrap(), &[VersionState::RolledBack, Promoted], Some(1));
    let all = step(
        roll_back(&all, &name(1), Some(&name(3)), "bad", now).unwrap(),
        &[VersionState::RolledBack, Promoted],
        Some(3),
    );
    let all = step(roll_back(&all, &name(3), None, "bad", now).unwrap(), &[VersionState::RolledBack], None);
    assert!(matches!(roll_back(&all, &name(3), None, "r", now), Err(Refusal::NoChampion(_))));
    let all = step(archive(&all, &name(3), "old", now).unwrap(), &[VersionState::Archived], None);
    assert!(matches!(promote(&all, &name(3), None, "r", now), Err(Refusal::Archived(_))));
    step(promote(&all, &name(2), Some(None), "again", now).unwrap(), &[Promoted], Some(2));
}

#[test]
fn retention_keeps_the_champion_the_one_before_it_and_the_newest() {
    use VersionState::{Promoted, Rejected};
    let states = [Promoted, Promoted, Rejected, Rejected, Rejected, Rejected];
    let all: Vec<Version> = (1..).zip(states).map(|(n, s)| version(n, s, i64::from(n))).collect();
    let numbers = |keep| beyond(&all, keep).iter().map(|v| v.number.get()).collect::<Vec<_>>();
    assert_eq!(numbers(2), [4, 3]);
    assert_eq!(numbers(4), [0u32; 0]);
    assert_eq!(numbers(1), [5, 4, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_promote_at_once_on_the_same_champion_one_succeeds() {
    let rig = Rig::new("", "").await;
    for n in 1..=6 {
        rig.lake.append_version(&version(n, VersionState::Registered, i64::from(n))).await.unwrap();
    }
    let config = rig.config();
    let tries = (1..=6).map(|n| {
        let config = config.clone();
        tokio::spawn(async move {
            // Each a process of its own, as far as the table can tell.
            let lake = pelton::daemon::open_lake(&config).await.unwrap();
            let wanted = name(n);
            let decide = |known: &[Version]| {
                promote(known, &wanted, Some(None), "race", pelton::runtime::now()).map_err(|e| e.to_string())
            };
            lake.change_versions(&wanted.model, &[], decide).await.map_err(|e| e.to_string())
        })
    });
    let ended: Vec<_> = futures::future::join_all(tries).await.into_iter().map(Result::unwrap).collect();
    let won: Vec<&Vec<Version>> = ended.iter().filter_map(|e| e.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "{ended:?}");
    assert!(ended.iter().filter_map(|e| e.as_ref().err()).all(|e| e.contains("no longer the base")), "{ended:?}");
    let all = rig.lake.versions(&rig.model).await.unwrap();
    assert_eq!(all.len(), 7);
    assert!(all.windows(2).all(|w| w[0].time < w[1].time));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_change_versions_and_tell_of_it() {
    let rig = Rig::new("", "").await;
    for n in 1..=3 {
        rig.lake.append_version(&version(n, VersionState::Registered, i64::from(n))).await.unwrap();
    }
    let promoted = rig.json(&["model", "promote", "sql-tiny@v1", "--reason", "first", "--json"]);
    assert_eq!((&promoted["champion"], &promoted["announced"]), (&"sql-tiny@v1".into(), &true.into()), "{promoted}");
    rig.json(&["model", "promote", "sql-tiny@v2", "--expect", "sql-tiny@v1", "--json"]);
    let moved = rig.pelton(&["model", "promote", "sql-tiny@v3", "--expect", "base"]);
    assert!(!moved.status.success() && String::from_utf8_lossy(&moved.stderr).contains("sql-tiny@v2"), "{moved:?}");
    assert_eq!(rig.json(&["model", "rollback", "sql-tiny", "--reason", "bad", "--json"])["champion"], "sql-tiny@v1");
    assert_eq!(rig.json(&["model", "archive", "sql-tiny@v3", "--json"])["champion"], "sql-tiny@v1");
    let expected = [
        "v1 registered",
        "v2 registered",
        "v3 registered",
        "v1 promoted",
        "v2 promoted",
        "v2 rolled_back",
        "v1 promoted",
        "v3 archived",
    ];
    assert_eq!(rig.versions().await, expected);
    assert_eq!(rig.announced().await, expected);
    assert_eq!(rig.json(&["model", "publish", "--json"])["sent"], serde_json::json!([]));
}

/// A version that is tuned from the one that serves is compared with it, with the base, and on what is pinned.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_turn_is_measured_against_the_first_the_base_and_pinned_suites() {
    let rig = Rig::new("", "").await;
    let text = std::fs::read_to_string(&rig.path).unwrap();
    let suites = "gate = { prompts_min = 4, suites = { old = { path = 'old.jsonl', regression_max = 1.0 }, \
                  known = { path = 'known.jsonl', regression_max = 1.0, score = { answer = { kind = 'exact' } } } } }";
    std::fs::write(&rig.path, text.replace("gate = { prompts_min = 4 }", suites)).unwrap();
    let line = |value: serde_json::Value| format!("{value}\n");
    let old: String = ["How many orders are there?", "Which customer spent most?", "List all products."]
        .map(|prompt| line(serde_json::json!({"prompt": prompt})))
        .concat();
    std::fs::write(rig.dir.path().join("old.jsonl"), old).unwrap();
    let known = line(serde_json::json!({"prompt": "How many orders are there?", "truth": "no such answer"}));
    std::fs::write(rig.dir.path().join("known.jsonl"), known).unwrap();

    let first = rig.cycle(Trigger::Hand, 16).await;
    assert!(rig.pelton(&["cycle", "resume", first.as_str()]).status.success());
    if !rig.versions().await.contains(&"v1 promoted".to_owned()) {
        rig.json(&["model", "promote", "sql-tiny@v1", "--json"]);
    }
    let second = rig.cycle(Trigger::Hand, 16).await;
    assert!(rig.pelton(&["cycle", "resume", second.as_str()]).status.success());

    let lineage = rig.json(&["model", "lineage", "sql-tiny@v2", "--json"]);
    assert!(lineage.to_string().contains("sql-tiny@v1"), "{lineage}");
    let shown = rig.json(&["model", "show", "sql-tiny@v2", "--json"]);
    let guards = &shown["manifest"]["evaluation"]["guards"];
    assert!(guards["base_reward"].is_number(), "{shown}");
    let suites: Vec<_> = guards["suites"].as_array().unwrap().iter().map(|s| (&s["name"], &s["prompts"])).collect();
    assert_eq!(suites, [(&"known".into(), &1.into()), (&"old".into(), &3.into())], "{guards}");
    assert!(guards["suites"].as_array().unwrap().iter().all(|suite| suite["base"].is_number()), "{guards}");
    // Nobody can know that answer, and the suite's own scorer says so of all three.
    let known = &guards["suites"][0];
    assert_eq!([&known["champion"], &known["challenger"], &known["base"]], [&serde_json::json!(0.0); 3], "{known}");
    let before = rig.json(&["model", "lineage", "sql-tiny@v1", "--json"]).to_string();
    assert!(!before.contains("sql-tiny@v2"), "{before}");
}
