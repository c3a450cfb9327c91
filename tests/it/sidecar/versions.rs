//! Which version answers: promoted by an event, loaded everywhere first, by share, back again after a restart.

use super::double::Double;
use super::rig::{PATIENCE, Rig, Setup};
use crate::support::kafka::{self, until};
use pelton::codec::event;
use pelton::domain::{CycleId, Interval, ModelName, Timestamp, Version, VersionNumber, VersionRef, VersionState};
use rdkafka::producer::{BaseRecord, Producer};
use serde_json::json;
use std::sync::atomic::Ordering::SeqCst;

/// Versions with folders that servers see.
struct Registry {
    dir: tempfile::TempDir,
}

impl Registry {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn version(&self, number: u32, state: VersionState, time: Timestamp) -> Version {
        let folder = self.dir.path().join(format!("v{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("adapter_config.json"), "{}").unwrap();
        let reference =
            |n| VersionRef { model: ModelName::new("support").unwrap(), number: VersionNumber::new(n).unwrap() };
        Version {
            reference: reference(number),
            state,
            time,
            cycle: CycleId::new("c-1").unwrap(),
            parent: (number > 1).then(|| reference(number - 1)),
            base_hash: "ab".repeat(32),
            location: format!("file://{}/", folder.display()),
            adapter_hash: "cd".repeat(32),
            holdout_prompts: 40,
            champion_reward: 0.5,
            challenger_reward: 0.6,
            gain: Interval { mean: 0.1, low: 0.05, high: 0.15 },
            reason: "the gate's conditions hold".to_owned(),
        }
    }
}

fn minutes_ago(minutes: i64) -> Timestamp {
    Timestamp::from_micros(pelton::runtime::now().micros() - minutes * 60_000_000)
}

fn announce(rig: &Rig, version: &Version) {
    let producer = kafka::producer(&rig.brokers);
    for message in event::messages(version, "test") {
        kafka::send(&producer, BaseRecord::to(&rig.versions).key(message.key.as_bytes()).payload(&message.payload));
    }
    producer.flush(PATIENCE).unwrap();
}

async fn answered_by(rig: &Rig, user: &str) -> Option<String> {
    let response = rig.chat(&json!({"model": "support", "user": user, "messages": []})).await;
    assert_eq!(response.status(), 200);
    let version = response.headers().get("x-model-version").map(|v| v.to_str().unwrap().to_owned());
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["model"], version.as_deref().unwrap_or("base"), "the header tells who answered");
    version
}

fn setup(doubles: &[&Double], alias: &str) -> Setup {
    let urls: Vec<&str> = doubles.iter().map(|d| d.url.as_str()).collect();
    let mut setup = Setup::new(&urls);
    setup.sections = format!("[sidecar.models.support]\nbase = 'base'\n{alias}");
    setup
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_version_answers_once_all_servers_have_it_and_again_after_a_restart() {
    let (registry, one, mut two) = (Registry::new(), Double::start().await, Double::start().await);
    let rig = Rig::start(setup(&[&one, &two], "")).await;
    assert_eq!(answered_by(&rig, "u").await, None);

    // One of them cannot load it: nothing moves, and that shows.
    two.stage.refuses_loads.store(true, SeqCst);
    announce(&rig, &registry.version(1, VersionState::Promoted, minutes_ago(9)));
    until("one has it", PATIENCE, async || one.adapters() == ["support@v1"]).await;
    until("the failure shows", PATIENCE, async || rig.metric("pelton_sidecar_adapter_failures_total").await > 0.0)
        .await;
    for n in 0..6 {
        assert_eq!(answered_by(&rig, &format!("u{n}")).await, None);
    }
    assert!(rig.said().contains("CUDA out of memory"), "{}", rig.said());
    two.stage.refuses_loads.store(false, SeqCst);
    until("it answers", PATIENCE, async || answered_by(&rig, "u").await.as_deref() == Some("support@v1")).await;
    let status = rig.status().await;
    assert_eq!(status["models"]["support"]["serving"], "support@v1");
    assert!(status["upstreams"][1]["models"].as_array().unwrap().contains(&json!("support@v1")));

    // A restarted server gets it again, and until then none of its requests.
    two.stop();
    until("its absence is noticed", PATIENCE, async || rig.status().await["upstreams"][1]["up"] == false).await;
    two.stage.refuses_loads.store(true, SeqCst);
    two.start_again().await;
    until("it is back", PATIENCE, async || rig.status().await["upstreams"][1]["up"] == true).await;
    let before = two.came().len();
    for n in 0..6 {
        assert_eq!(answered_by(&rig, &format!("u{n}")).await.as_deref(), Some("support@v1"));
    }
    assert_eq!(two.came().len(), before);
    two.stage.refuses_loads.store(false, SeqCst);
    until("it has it again", PATIENCE, async || two.adapters() == ["support@v1"]).await;

    // The next one replaces it, and the old one goes.
    announce(&rig, &registry.version(2, VersionState::Promoted, minutes_ago(1)));
    until("the next answers", PATIENCE, async || answered_by(&rig, "u").await.as_deref() == Some("support@v2")).await;
    until("the old one is unloaded", PATIENCE, async || {
        one.adapters() == ["support@v2"] && two.adapters() == ["support@v2"]
    })
    .await;
    // A version can be asked for by its own name, and the log has who answered.
    let own = rig.chat(&json!({"model": "support@v2", "messages": []})).await;
    assert_eq!(own.json::<serde_json::Value>().await.unwrap()["model"], "support@v2");
    until("the log has it", PATIENCE, async || {
        let sent = rig.metric("pelton_log_sent_total").await as usize;
        let rows = rig.rows(sent).await;
        rows.iter().any(|r| r.model.as_deref() == Some("support") && r.model_version.as_deref() == Some("support@v2"))
    })
    .await;
    // A tombstone: the base again.
    let producer = kafka::producer(&rig.brokers);
    producer.send(BaseRecord::<str, [u8]>::to(&rig.versions).key("support")).map_err(|(e, _)| e).unwrap();
    producer.flush(PATIENCE).unwrap();
    until("the base answers", PATIENCE, async || answered_by(&rig, "u").await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_is_sticky_rises_by_schedule_and_by_hand_and_a_withdrawal_takes_effect_at_once() {
    let (registry, double) = (Registry::new(), Double::start().await);
    let rollout = "sticky = 'user'\nrollout = [{after_minutes = 0, share = 0.3}, {after_minutes = 30, share = 1.0}]";
    let rig = Rig::start(setup(&[&double], rollout)).await;
    announce(&rig, &registry.version(1, VersionState::Promoted, minutes_ago(100)));
    until("the first answers all", PATIENCE, async || answered_by(&rig, "u").await.as_deref() == Some("support@v1"))
        .await;
    announce(&rig, &registry.version(2, VersionState::Promoted, minutes_ago(1)));
    until("both are there", PATIENCE, async || {
        let state = rig.status().await["models"]["support"].clone();
        state["serving"] == "support@v2" && state["rest"] == "support@v1"
    })
    .await;
    let ask = async || {
        let mut new = Vec::new();
        for n in 0..100 {
            let version = answered_by(&rig, &format!("user-{n}")).await.unwrap();
            assert!(["support@v1", "support@v2"].contains(&version.as_str()));
            if version == "support@v2" {
                new.push(n);
            }
        }
        new
    };
    let first = ask().await;
    assert!((12..=50).contains(&first.len()), "{} of 100 at a share of 0.3", first.len());
    assert_eq!(ask().await, first, "a user stays with a version");
    let by_hand = async |share: serde_json::Value| {
        let url = format!("{}/rollout", rig.admin);
        super::rig::client().post(url).json(&json!({"model": "support", "share": share})).send().await.unwrap().status()
    };
    assert_eq!(by_hand(json!(0.6)).await, 200);
    let more = ask().await;
    assert!(more.len() > first.len() && first.iter().all(|n| more.contains(n)), "who has the new one keeps it");
    assert_eq!((by_hand(json!(7)).await.as_u16(), by_hand(json!(0)).await.as_u16()), (400, 200));
    assert!(ask().await.is_empty());
    assert_eq!(by_hand(json!(null)).await, 200);
    assert_eq!(ask().await, first);
    // The new one is withdrawn: the old one is champion again, with a time of now, and answers all at once.
    announce(&rig, &registry.version(2, VersionState::RolledBack, minutes_ago(0)));
    announce(&rig, &registry.version(1, VersionState::Promoted, minutes_ago(0)));
    until("the old one answers all", PATIENCE, async || {
        let state = rig.status().await["models"]["support"].clone();
        state["serving"] == "support@v1" && state["share"] == 1.0
    })
    .await;
    assert!(ask().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenger_in_the_shadow_is_asked_and_answers_nobody() {
    let (registry, double) = (Registry::new(), Double::start().await);
    let rig = Rig::start(setup(&[&double], "shadow = {model = 'support@v2'}")).await;
    announce(&rig, &registry.version(1, VersionState::Promoted, minutes_ago(9)));
    announce(&rig, &registry.version(2, VersionState::Registered, minutes_ago(1)));
    until("both are loaded", PATIENCE, async || double.adapters() == ["support@v1", "support@v2"]).await;
    until("v1 answers", PATIENCE, async || answered_by(&rig, "u").await.as_deref() == Some("support@v1")).await;
    let asked = |version: &str| {
        let body = |came: &super::double::Came| {
            serde_json::from_slice::<serde_json::Value>(&came.body).unwrap()["model"] == version
        };
        double.came().iter().filter(|came| body(came)).count()
    };
    until("a copy came", PATIENCE, async || asked("support@v2") > 0).await;
    until("the copy is logged as one", PATIENCE, async || {
        let sent = rig.metric("pelton_log_sent_total").await as usize;
        let rows = rig.rows(sent).await;
        rows.iter().any(|row| {
            row.model_version.as_deref() == Some("support@v2")
                && row.extra.as_deref().is_some_and(|extra| extra.contains("shadow_of"))
        })
    })
    .await;
    assert_eq!(answered_by(&rig, "u").await.as_deref(), Some("support@v1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawal_waits_for_no_server_and_a_restart_answers_with_the_version_from_the_first_request() {
    let (registry, double) = (Registry::new(), Double::start().await);
    let mut rig = Rig::start(setup(&[&double], "")).await;
    announce(&rig, &registry.version(1, VersionState::Promoted, minutes_ago(9)));
    announce(&rig, &registry.version(2, VersionState::Promoted, minutes_ago(8)));
    until("the second answers", PATIENCE, async || answered_by(&rig, "u").await.as_deref() == Some("support@v2")).await;
    until("the first is gone", PATIENCE, async || double.adapters() == ["support@v2"]).await;

    // A server that does not list its models for a while has them all the same.
    double.stage.lists_nothing.store(true, SeqCst);
    let looks = rig.metric("pelton_sidecar_requests_total").await;
    for n in 0..20 {
        assert_eq!(answered_by(&rig, &format!("u{n}")).await.as_deref(), Some("support@v2"));
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    assert!(rig.metric("pelton_sidecar_requests_total").await >= looks + 20.0);
    double.stage.lists_nothing.store(false, SeqCst);

    // Whoever starts knows what answers before it takes requests.
    for _ in 0..2 {
        rig.kill_and_start(None).await;
        assert_eq!(answered_by(&rig, "u").await.as_deref(), Some("support@v2"));
    }

    // The second is withdrawn while the first cannot be loaded: the base answers, and the first as soon as it is there.
    double.stage.loads_hang.store(true, SeqCst);
    announce(&rig, &registry.version(2, VersionState::RolledBack, minutes_ago(0)));
    announce(&rig, &registry.version(1, VersionState::Promoted, minutes_ago(0)));
    until("the base answers", PATIENCE, async || answered_by(&rig, "u").await.is_none()).await;
    double.stage.loads_hang.store(false, SeqCst);
    until("the first answers", PATIENCE, async || answered_by(&rig, "u").await.as_deref() == Some("support@v1")).await;
}

/// All come with one key; who says nothing of himself is drawn for at each request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_clients_behind_one_key_is_a_share_of_their_requests() {
    use sha2::Digest as _;
    let (registry, double) = (Registry::new(), Double::start().await);
    let mut setup =
        setup(&[&double], "rollout = [{after_minutes = 0, share = 0.5}, {after_minutes = 600, share = 1.0}]");
    let hash: String = sha2::Sha256::digest("sk-app").iter().map(|b| format!("{b:02x}")).collect();
    setup.sections.push_str(&format!("\n[[sidecar.keys]]\nname = 'app'\nsha256 = '{hash}'\n"));
    let rig = Rig::start(setup).await;
    announce(&rig, &registry.version(1, VersionState::Promoted, minutes_ago(1)));
    until("it serves", PATIENCE, async || rig.status().await["models"]["support"]["serving"] == "support@v1").await;
    let client = super::rig::client();
    let mut by_version = 0;
    for _ in 0..40 {
        let request = client.post(format!("{}/v1/chat/completions", rig.url)).bearer_auth("sk-app");
        let response = request.json(&json!({"model": "support", "messages": []})).send().await.unwrap();
        by_version += usize::from(response.headers().contains_key("x-model-version"));
    }
    assert!((5..=35).contains(&by_version), "{by_version} of 40 at a share of 0.5");
}
