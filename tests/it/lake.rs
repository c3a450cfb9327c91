//! The tables: what is appended comes back, once, at every version.

use crate::support::lake::{count, open};
use pelton::domain::{
    Answer, Candidate, ChatMessage, Comparison, Component, CycleEvent, CycleId, CycleState, Finish, Interval,
    ModelName, Prompt, PromptHash, Split, Timestamp, TrainingSet, Version, VersionNumber, VersionRef, VersionState,
    WindowName,
};
use pelton::lake::{Error, Lake, Round, TableName};

fn cycle() -> CycleId {
    CycleId::new("support-sql-20261122t100000-ab12").unwrap()
}

fn model() -> ModelName {
    ModelName::new("support-sql").unwrap()
}

fn event(state: CycleState, at_ms: i64) -> CycleEvent {
    let until = (state > CycleState::Collect).then(|| Timestamp::from_millis(5));
    let version = (state == CycleState::Done).then_some(VersionNumber::FIRST);
    let detail = "{\"why\":\"a \\\"quoted\\\" word\"}".to_owned();
    let time = Timestamp::from_millis(at_ms);
    CycleEvent { cycle: cycle(), model: model(), state, time, attempt: 2, until, version, detail }
}

fn version(number: u32, state: VersionState) -> Version {
    Version {
        reference: VersionRef { model: model(), number: VersionNumber::new(number).unwrap() },
        state,
        time: Timestamp::from_micros(1_800_000_000_000_001 + i64::from(number)),
        cycle: cycle(),
        parent: (number > 1).then(|| "support-sql@v1".parse().unwrap()),
        base_hash: "ba5e".to_owned(),
        location: "/models/support-sql/v1".to_owned(),
        adapter_hash: "ada9".to_owned(),
        holdout_prompts: 120,
        champion_reward: 0.25,
        challenger_reward: 0.5,
        gain: Interval { mean: 0.25, low: 0.125, high: 0.375 },
        reason: "every condition held".to_owned(),
    }
}

fn prompt(text: &str) -> Prompt {
    let messages = vec![ChatMessage::user(text)];
    let hash = PromptHash::of(&messages);
    Prompt { request_id: format!("r-{text}"), hash, messages, request_time: Timestamp::from_millis(7) }
}

fn candidate(sample: u32, reward: Option<f64>) -> Candidate {
    let part = |name: &str, value| Component { name: name.to_owned(), value };
    Candidate {
        prompt: PromptHash::of(&[ChatMessage::user("q")]),
        sample,
        strategy: "temperature=0.8".to_owned(),
        seed: u64::MAX - u64::from(sample),
        tokens: vec![1, 2, u32::MAX],
        text: "SELECT '🦀'".to_owned(),
        logprobs: vec![-0.5, -0.25, -0.125],
        finish: if sample == 0 { Finish::Stop } else { Finish::Length },
        reward,
        components: reward.map_or_else(Vec::new, |r| vec![part("executes", 1.0), part("agrees", r)]),
    }
}

#[tokio::test]
async fn opening_creates_every_table_once_with_its_documented_columns() {
    let (dir, lake) = open().await;
    let again = Lake::open(&crate::support::lake::config(dir.path())).await.unwrap();
    for name in TableName::ALL {
        assert_eq!(lake.version(name).await.unwrap(), 0, "{name}");
        assert_eq!(again.version(name).await.unwrap(), 0, "{name}");
        let stored = lake.provider(name, None).await.unwrap().schema();
        let names: Vec<_> = stored.fields().iter().map(|f| f.name().as_str()).collect();
        let mut declared: Vec<_> = name.columns().iter().map(|c| c.name).collect();
        // A scan puts partition columns where they were declared; comparing sorted says only that all are there.
        let mut names = names;
        names.sort_unstable();
        declared.sort_unstable();
        assert_eq!(names, declared, "{name}");
        assert!(name.columns().iter().all(|c| !c.about.is_empty()), "{name} has a column without a meaning");
    }
}

#[tokio::test]
async fn two_processes_may_create_the_tables_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::support::lake::config(dir.path());
    let opened = futures::future::join_all((0..4).map(|_| Lake::open(&config))).await;
    for lake in opened {
        assert_eq!(lake.unwrap().version(TableName::Cycle).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn cycles_and_versions_come_back_as_they_were_appended() {
    let (_dir, lake) = open().await;
    let events = [event(CycleState::Requested, 1), event(CycleState::Explore, 2), event(CycleState::Done, 3)];
    for event in &events {
        lake.append_cycle(event).await.unwrap();
    }
    assert_eq!(lake.cycle_events(None).await.unwrap(), events);
    assert_eq!(lake.cycle_events(Some(&model())).await.unwrap(), events);
    assert_eq!(lake.events_of_cycle(&cycle()).await.unwrap(), events);
    assert_eq!(lake.cycle_events(Some(&ModelName::new("other").unwrap())).await.unwrap(), []);

    let versions = [version(1, VersionState::Promoted), version(2, VersionState::Rejected)];
    for version in &versions {
        lake.append_version(version).await.unwrap();
    }
    assert_eq!(lake.versions(&model()).await.unwrap(), versions);
    assert_eq!(lake.all_versions().await.unwrap(), versions);
}

#[tokio::test]
async fn a_step_that_runs_again_appends_nothing() {
    let (_dir, lake) = open().await;
    let now = Timestamp::from_millis(9);
    let set = TrainingSet {
        window: WindowName::new("fresh").unwrap(),
        sql: "SELECT 1".to_owned(),
        table_version: 17,
        since: Timestamp::EPOCH,
        until: now,
        train: vec![prompt("b"), prompt("a"), prompt("\"c\"\n")],
        holdout: vec![prompt("d")],
        left_out: Vec::new(),
        reasons: std::collections::BTreeMap::new(),
        strata: [(prompt("a").hash, "refunds".to_owned()), (prompt("d").hash, "orders".to_owned())].into(),
    };
    assert_eq!(lake.training_set(&cycle()).await.unwrap(), None);
    let sampled = [candidate(0, None), candidate(1, None)];
    let scored = [candidate(0, Some(0.5)), candidate(1, Some(-1.0))];
    for _ in 0..2 {
        lake.append_training_window(&cycle(), &set, now).await.unwrap();
        lake.append_candidates(&cycle(), "explore", &sampled, now).await.unwrap();
    }
    assert_eq!(lake.training_set(&cycle()).await.unwrap(), Some(set));
    assert_eq!(lake.candidates(&cycle()).await.unwrap(), sampled);
    let later = Timestamp::from_millis(10);
    lake.append_candidates(&cycle(), "score", &scored, later).await.unwrap();
    assert_eq!(lake.candidates(&cycle()).await.unwrap(), scored);
    assert_eq!(count(&lake, TableName::Candidate, "").await, 4);
    assert_eq!(count(&lake, TableName::TrainingWindow, &format!("split = '{}'", Split::Holdout.as_str())).await, 1);

    let answer = |reward, correct| Answer { text: "x".to_owned(), reward, correct, tokens: 3 };
    let comparison = Comparison {
        prompt: PromptHash::of_canonical("p"),
        question: "how many?".to_owned(),
        slice: Some("orders".to_owned()),
        champion: answer(0.0, Some(false)),
        challenger: answer(1.0, None),
    };
    let reference = version(1, VersionState::Registered).reference;
    for _ in 0..2 {
        lake.append_evaluation(&cycle(), &reference, std::slice::from_ref(&comparison), now).await.unwrap();
    }
    assert_eq!(
        count(&lake, TableName::Evaluation, "challenger_correct IS NULL AND version = 1 AND slice = 'orders'").await,
        1
    );
}

#[tokio::test]
async fn every_version_stays_readable_and_an_unknown_one_is_named() {
    let (_dir, lake) = open().await;
    for at in 1..=3 {
        lake.append_cycle(&event(CycleState::Explore, at)).await.unwrap();
    }
    for version in 0..=3 {
        let provider = lake.provider(TableName::Cycle, Some(version)).await.unwrap();
        let frame = datafusion::prelude::SessionContext::new().read_table(provider).unwrap();
        assert_eq!(frame.count().await.unwrap(), usize::try_from(version).unwrap());
    }
    let error = lake.provider(TableName::Cycle, Some(4)).await.unwrap_err();
    assert!(matches!(error, Error::NoVersion { version: 4, newest: 3, .. }), "{error}");
    assert_eq!(error.to_string(), "table `cycle` has no version 4: the newest is 3");
}

#[tokio::test]
async fn maintenance_writes_a_checkpoint_after_fifty_commits_and_keeps_every_row() {
    let (dir, lake) = open().await;
    for at in 0..50 {
        lake.append_cycle(&event(CycleState::Explore, at)).await.unwrap();
    }
    let round = Round { now: pelton::runtime::now(), thorough: true, dry_run: false };
    let written = async || {
        let done = lake.maintain(&pelton::config::Maintenance::default(), &[], round).await.unwrap();
        done.iter().filter(|one| one.checkpoint).map(|one| one.table).collect::<Vec<_>>()
    };
    assert_eq!(written().await, [TableName::Cycle]);
    assert_eq!(written().await, [], "nothing is due right after");
    let reopened = Lake::open(&crate::support::lake::config(dir.path())).await.unwrap();
    assert_eq!(reopened.cycle_events(None).await.unwrap().len(), 50);
    // The writer of the appends is still known from the checkpoint, so a step still appends once.
    reopened.append_cycle(&event(CycleState::Done, 51)).await.unwrap();
    assert_eq!(lake.cycle_events(None).await.unwrap().len(), 51);
}

#[test]
fn urls_that_no_lake_can_be_at_are_refused_with_what_would_be_right() {
    let open = |url: &str| {
        let config = pelton::config::Lake { url: url.to_owned(), ..pelton::config::Lake::default() };
        pelton::lake::Store::open(&config).unwrap_err().to_string()
    };
    for (url, says) in [
        ("gs://bucket/x", "the scheme `gs` is not supported"),
        ("s3:///prefix", "it names no bucket"),
        ("/dev/null/x", "its folder cannot be made"),
    ] {
        let message = open(url);
        assert!(message.contains(says) && message.contains("s3://bucket/prefix"), "{url}: {message}");
    }
}
