//! Registry and events: without a manifest there is no version, a number is given once, and an event is the same at
//! every try.

use crate::support::kafka as real;
use crate::support::python::S3;
use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use pelton::codec::event::{self, EventMessage, Mode};
use pelton::codec::schema;
use pelton::config::Kafka;
use pelton::domain::{CycleId, Interval, ModelName, Timestamp, Version, VersionNumber, VersionRef, VersionState};
use pelton::publish::{Error, Manifest, Publisher, Registry, read_events};
use pelton::runtime::Shutdown;
use proptest::prelude::*;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const TOPIC: &str = "model-versions";
const WAIT: Duration = Duration::from_secs(30);

fn model() -> ModelName {
    ModelName::new("support-sql").unwrap()
}

fn reference(number: u32) -> VersionRef {
    VersionRef { model: model(), number: VersionNumber::new(number).unwrap() }
}

fn manifest(version: &VersionRef) -> Manifest {
    Manifest {
        format: 1,
        name: version.to_string(),
        created: "2026-11-22T10:00:00Z".to_owned(),
        cycle: "c-1".to_owned(),
        base_hash: "ab".repeat(32),
        parent: None,
        window: json!({"name": "fresh", "sql": "SELECT 1", "table_version": 7}),
        seeds: BTreeMap::from([("cycle".to_owned(), u64::MAX)]),
        config_hash: "cd".repeat(32),
        settings: json!({}),
        evaluation: json!({"prompts": 40}),
        calibration: None,
        pelton: "0.1.0".to_owned(),
        files: BTreeMap::new(),
    }
}

fn files() -> Vec<(String, Vec<u8>)> {
    vec![
        ("adapter_config.json".to_owned(), b"{}".to_vec()),
        ("adapter_model.safetensors".to_owned(), vec![7; 1000]),
        ("report.html".to_owned(), b"<!doctype html>".to_vec()),
    ]
}

fn in_memory() -> (Arc<dyn ObjectStore>, Registry) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    (Arc::clone(&store), Registry::new(store, &Path::from("some/lake")))
}

fn version(number: u32, state: VersionState) -> Version {
    Version {
        reference: reference(number),
        state,
        time: Timestamp::from_micros(1_795_348_800_123_456),
        cycle: CycleId::new("support-sql-20261122t100000-ab12").unwrap(),
        parent: (number > 1).then(|| reference(number - 1)),
        base_hash: "ab".repeat(32),
        location: format!("file:///lake/models/support-sql/v{number}"),
        adapter_hash: "cd".repeat(32),
        holdout_prompts: 120,
        champion_reward: 0.25,
        challenger_reward: 0.5,
        gain: Interval { mean: 0.25, low: 0.125, high: 0.375 },
        reason: "the gate's conditions hold".to_owned(),
    }
}

#[tokio::test]
async fn without_a_manifest_the_version_does_not_exist() {
    let (store, registry) = in_memory();
    let claimed = registry.claim(&model(), "c-1").await.unwrap();
    assert_eq!(claimed, reference(1));
    let folder = registry.folder(&claimed);
    assert_eq!(folder.as_ref(), "some/lake/models/support-sql/v1");
    // Everything but the manifest is there, as after a crash.
    for (name, bytes) in files() {
        store.put(&folder.clone().join(name), bytes.into()).await.unwrap();
    }
    assert!(matches!(registry.manifest(&claimed).await, Err(Error::NotFound(v)) if v == claimed));
    assert!(matches!(registry.files(&claimed).await, Err(Error::NotFound(_))));
    assert_eq!(registry.list().await.unwrap(), []);

    let written = registry.store(&claimed, files(), manifest(&claimed)).await.unwrap();
    assert_eq!(registry.manifest(&claimed).await.unwrap(), written);
    assert_eq!(registry.list().await.unwrap().len(), 1);
    let names: Vec<String> = registry.files(&claimed).await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors", "report.html"]);
}

#[tokio::test]
async fn two_writers_get_different_numbers_and_one_cycle_keeps_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let disk = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    let stores: [Arc<dyn ObjectStore>; 2] = [Arc::new(InMemory::new()), Arc::new(disk)];
    for store in stores {
        let registry = Registry::new(store, &Path::from("lake"));
        let claims = (0..20).map(|i| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.claim(&model(), &format!("c-{i}")).await.unwrap() })
        });
        let claimed = futures::future::join_all(claims).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 20, "{claimed:?}");
        // A cycle that was killed after its claim goes on with the same number.
        for (i, version) in claimed.iter().enumerate() {
            assert_eq!(registry.claim(&model(), &format!("c-{i}")).await.unwrap(), *version);
        }
        let other = ModelName::new("support-sql-2").unwrap();
        assert_eq!(registry.claim(&other, "c-0").await.unwrap().number, VersionNumber::FIRST);
    }
}

#[tokio::test]
async fn a_changed_file_and_a_path_out_of_the_folder_are_refused() {
    let (store, registry) = in_memory();
    let version = registry.claim(&model(), "c-1").await.unwrap();
    registry.store(&version, files(), manifest(&version)).await.unwrap();
    let adapter = registry.folder(&version).join("adapter_model.safetensors");
    store.put(&adapter, vec![8; 1000].into()).await.unwrap();
    let error = registry.files(&version).await.unwrap_err();
    assert!(matches!(&error, Error::Hash { path, .. } if *path == adapter), "{error}");

    for name in ["../../v2/adapter_model.safetensors", "/etc/passwd", "a/b", "..", "", "a\\b"] {
        let mut evil = manifest(&version);
        evil.files.insert(name.to_owned(), "00".repeat(32));
        let json = serde_json::to_vec(&evil).unwrap();
        store.put(&registry.folder(&version).join("manifest.json"), json.into()).await.unwrap();
        assert!(matches!(registry.files(&version).await, Err(Error::Escape { file, .. }) if file == name), "{name}");
    }
    store.put(&registry.folder(&version).join("manifest.json"), b"{".to_vec().into()).await.unwrap();
    assert!(matches!(registry.manifest(&version).await, Err(Error::Manifest { .. })));
}

fn header<'a>(message: &'a EventMessage, name: &str) -> &'a str {
    &message.headers.iter().find(|(key, _)| key == name).unwrap().1
}

#[test]
fn the_events_fit_their_schema() {
    let text = schema::ALL.iter().find(|s| s.file == "model-version.v1").unwrap().json;
    let schema: Value = serde_json::from_str(text).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    for state in VersionState::ALL {
        for number in [1, 2] {
            for message in event::messages(&version(number, state), "file:///lake/models/support-sql") {
                let data: Value = serde_json::from_slice(&message.payload).unwrap();
                let faults: Vec<String> = validator.iter_errors(&data).map(|e| e.to_string()).collect();
                assert_eq!(faults, [""; 0], "{data:#}");
                assert_eq!(header(&message, "ce_type"), format!("dev.pelton.model.version.{}", state.as_str()));
                assert_eq!(header(&message, "ce_subject"), format!("support-sql@v{number}"));
                assert_eq!(header(&message, "ce_specversion"), "1.0");
                assert_eq!(header(&message, "content-type"), "application/json");
            }
        }
    }
    // The schema can fail.
    assert!(!validator.is_valid(&json!({"schema": "pelton.model-version/v1"})));
}

#[test]
fn only_a_promotion_moves_the_champion_pointer() {
    for state in VersionState::ALL {
        let keys: Vec<String> = event::messages(&version(3, state), "s").into_iter().map(|m| m.key).collect();
        let expected: &[&str] =
            if state == VersionState::Promoted { &["support-sql/v3", "support-sql"] } else { &["support-sql/v3"] };
        assert_eq!(keys, expected, "{state:?}");
    }
}

#[test]
fn an_id_is_the_same_at_every_try_and_another_for_another_state() {
    let promoted = version(3, VersionState::Promoted);
    assert_eq!(event::event_id(&promoted), event::event_id(&promoted.clone()));
    let ids: BTreeSet<String> = VersionState::ALL
        .into_iter()
        .flat_map(|s| [event::event_id(&version(1, s)), event::event_id(&version(2, s))])
        .collect();
    assert_eq!(ids.len(), 2 * VersionState::ALL.len());
}

#[test]
fn what_is_no_event_is_refused_with_its_field() {
    let good: Value =
        serde_json::from_slice(&event::messages(&version(1, VersionState::Promoted), "s")[0].payload).unwrap();
    for (field, value, says) in [
        ("version", json!(0), "version"),
        ("state", json!("excellent"), "excellent"),
        ("time", json!("yesterday"), "yesterday"),
        ("model", json!("Not A Name"), "Not A Name"),
        ("parent", json!("v1"), "parent"),
        ("schema", json!("pelton.model-version/v9"), "v9"),
        ("evaluation", json!({"gain": 1}), "evaluation"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let error = event::decode(&serde_json::to_vec(&bad).unwrap()).unwrap_err().to_string();
        assert!(error.contains(says), "{field}: {error}");
    }
    assert!(event::decode(b"").is_err());
}

prop_compose! {
    fn any_version()(
        number in 1u32..u32::MAX, state in 0..VersionState::ALL.len(), micros in 0i64..4_000_000_000_000_000, parent: Option<bool>,
        text in ".{0,40}", prompts: u32, rewards in proptest::array::uniform5(-1.0e3f64..1.0e3),
    ) -> Version {
        let [champion_reward, challenger_reward, mean, low, high] = rewards;
        Version {
            reference: reference(number),
            time: Timestamp::from_micros(micros),
            parent: parent.map(|_| reference(1)),
            location: text.clone(),
            holdout_prompts: prompts.into(),
            champion_reward,
            challenger_reward,
            gain: Interval { mean, low, high },
            reason: text,
            ..version(1, VersionState::ALL[state])
        }
    }
}

proptest! {
    #[test]
    fn an_event_comes_back_as_it_was(version in any_version()) {
        for message in event::messages(&version, "s") {
            prop_assert_eq!(&event::decode(&message.payload).unwrap(), &version);
        }
    }
}

async fn read(kafka: &Kafka, topic: &str) -> Vec<EventMessage> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || read_events(&kafka, &topic, WAIT).unwrap()).await.unwrap()
}

fn kafka(brokers: String) -> Kafka {
    Kafka { brokers, ..Kafka::default() }
}

const SOURCE: &str = "file:///lake/models/support-sql";

/// State changes of versions, each a second after the one before.
fn history(changes: &[(u32, VersionState)]) -> Vec<Version> {
    let at = |i: usize| Timestamp::from_micros(1_795_348_800_000_000 + i64::try_from(i).unwrap() * 1_000_000);
    changes.iter().enumerate().map(|(i, (n, state))| Version { time: at(i), ..version(*n, *state) }).collect()
}

async fn follow(kafka: &Kafka, topic: &str, versions: &[Version]) -> Vec<String> {
    let publisher = Publisher::new(kafka, topic, Mode::Binary);
    publisher.follow(&model(), versions, SOURCE, &Shutdown::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_with_headers_and_keys_once_however_often_they_are_followed() {
    let broker = MockCluster::new(1).unwrap();
    let kafka = kafka(broker.bootstrap_servers());
    // One partition, as on a broker that has an admin API; by itself this one makes four.
    broker.create_topic(TOPIC, 1, 1).unwrap();
    let all = history(&[(1, VersionState::Registered), (1, VersionState::Promoted), (2, VersionState::Registered)]);
    let ids: Vec<String> = all.iter().map(event::event_id).collect();
    assert_eq!(follow(&kafka, TOPIC, &all[..2]).await, ids[..2]);
    assert_eq!(follow(&kafka, TOPIC, &all[..2]).await, [""; 0]);
    assert_eq!(follow(&kafka, TOPIC, &all).await, ids[2..], "only what is new");
    let messages = read(&kafka, TOPIC).await;
    let expected: Vec<EventMessage> = all.iter().flat_map(|v| event::messages(v, SOURCE)).collect();
    assert_eq!(messages, expected);
    let keys: Vec<&str> = messages.iter().map(|m| m.key.as_str()).collect();
    assert_eq!(keys, ["support-sql/v1", "support-sql/v1", "support-sql", "support-sql/v2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_waits_for_a_broker_that_is_away() {
    let broker = MockCluster::new(1).unwrap();
    let kafka = kafka(broker.bootstrap_servers());
    broker.create_topic(TOPIC, 1, 1).unwrap();
    broker.broker_down(1).unwrap();
    let owed = history(&[(2, VersionState::Rejected)]);
    let sending = tokio::spawn({
        let (kafka, owed) = (kafka.clone(), owed.clone());
        async move { follow(&kafka, TOPIC, &owed).await }
    });
    assert!(
        tokio::time::timeout(Duration::from_millis(500), async {
            while !sending.is_finished() {
                tokio::task::yield_now().await
            }
        })
        .await
        .is_err(),
        "nothing can be sent to a broker that is away"
    );
    broker.broker_up(1).unwrap();
    let ids = tokio::time::timeout(WAIT * 3, sending).await.unwrap().unwrap();
    let found: Vec<String> = read(&kafka, TOPIC).await.iter().map(|m| header(m, "ce_id").to_owned()).collect();
    assert_eq!((found, ids), (vec![event::event_id(&owed[0])], vec![event::event_id(&owed[0])]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_the_wait_and_says_which_event_is_owed() {
    let broker = MockCluster::new(1).unwrap();
    let settings = kafka(broker.bootstrap_servers());
    broker.broker_down(1).unwrap();
    let publisher = Publisher::new(&settings, TOPIC, Mode::Binary);
    let shutdown = Shutdown::new();
    shutdown.cancel();
    let owed = history(&[(2, VersionState::Rejected)]);
    let following = publisher.follow(&owed[0].reference.model, &owed, SOURCE, &shutdown);
    let error = tokio::time::timeout(WAIT * 2, following).await.unwrap().unwrap_err();
    assert!(error.to_string().contains(&event::event_id(&owed[0])), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_broker_gets_a_compacted_topic_and_many_followers_send_each_event_once_and_in_order() {
    let kafka = kafka(real::brokers().to_owned());
    let topic = real::unique("model-versions");
    let changes: Vec<(u32, VersionState)> =
        (1..=6).flat_map(|n| [(n, VersionState::Registered), (n, VersionState::Promoted)]).collect();
    let all = history(&changes);
    // Each knows another part of the table, as processes that looked at different times do.
    let followers = (0..4).map(|i| {
        let (kafka, topic, all) = (kafka.clone(), topic.clone(), all.clone());
        tokio::spawn(async move {
            for end in (1..=all.len()).filter(|end| end % 4 == i || *end == all.len()) {
                follow(&kafka, &topic, &all[..end]).await;
            }
        })
    });
    futures::future::join_all(followers).await.into_iter().for_each(Result::unwrap);
    let expected: Vec<EventMessage> = all.iter().flat_map(|v| event::messages(v, SOURCE)).collect();
    assert_eq!(read(&kafka, &topic).await, expected);

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", real::brokers()).create().unwrap();
    let asked = admin.describe_configs([&ResourceSpecifier::Topic(&topic)], &AdminOptions::new()).await.unwrap();
    let settings = asked.into_iter().next().unwrap().unwrap();
    assert_eq!(settings.get("cleanup.policy").unwrap().value.as_deref(), Some("compact"));
    let metadata = admin.inner().fetch_metadata(Some(&topic), WAIT).unwrap();
    assert_eq!(metadata.topics()[0].partitions().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pointer_goes_where_a_rollback_goes_and_away_where_only_the_base_is_left() {
    use VersionState::{Promoted, RolledBack};
    let kafka = kafka(real::brokers().to_owned());
    let topic = real::unique("model-versions");
    let all = history(&[(1, Promoted), (2, Promoted), (2, RolledBack), (1, Promoted), (1, RolledBack)]);
    follow(&kafka, &topic, &all).await;
    let pointer = |m: &&EventMessage| m.key == "support-sql";
    let messages = read(&kafka, &topic).await;
    let pointed: Vec<Option<u32>> =
        messages.iter().filter(pointer).map(|m| event::read(m).unwrap().map(|v| v.reference.number.get())).collect();
    assert_eq!(pointed, [Some(1), Some(2), Some(1), None]);
    assert_eq!(messages.len(), all.len() + pointed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_structured_mode_is_one_json_object_and_reads_back() {
    let kafka = kafka(real::brokers().to_owned());
    let topic = real::unique("model-versions");
    let all = history(&[(1, VersionState::Registered), (1, VersionState::Promoted)]);
    let publisher = Publisher::new(&kafka, &topic, Mode::Structured);
    for part in [&all[..1], &all] {
        assert_eq!(publisher.follow(&model(), part, SOURCE, &Shutdown::new()).await.unwrap().len(), 1);
    }
    let messages = read(&kafka, &topic).await;
    assert_eq!(messages.len(), 3);
    for message in &messages {
        let envelope: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(
            (&envelope["specversion"], &envelope["datacontenttype"]),
            (&json!("1.0"), &json!("application/json"))
        );
        assert_eq!(header(message, "content-type"), event::STRUCTURED);
        assert!(all.contains(&event::read(message).unwrap().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_lake_claims_and_stores_like_a_local_one() {
    let server = S3::start("models-bucket").await;
    let store = AmazonS3Builder::new()
        .with_bucket_name("models-bucket")
        .with_endpoint(&server.endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .build()
        .unwrap();
    let registry = Registry::new(Arc::new(store), &Path::from("some/lake"));
    let first = registry.claim(&model(), "c-1").await.unwrap();
    assert_eq!(registry.claim(&model(), "c-2").await.unwrap(), reference(2));
    assert_eq!(registry.claim(&model(), "c-1").await.unwrap(), first);
    assert!(matches!(registry.manifest(&first).await, Err(Error::NotFound(_))));
    registry.store(&first, files(), manifest(&first)).await.unwrap();
    assert_eq!(registry.files(&first).await.unwrap(), files());
    assert_eq!(registry.list().await.unwrap().len(), 1, "the second was claimed and never stored");
}
