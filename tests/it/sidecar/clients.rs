//! The official clients, through the sidecar to `pelton serve`, and directly: they must see the same.

use super::rig::{Rig, Setup};
use crate::support::{python, serve};
use serde_json::{Value, json};
use std::process::Command;

/// `serve` on the tiny model.
pub async fn serve() -> String {
    serve::serve(serve::tiny(), None).await
}

async fn seen(see: impl Fn(&str) -> String + Send + Sync + 'static) -> (Value, Value) {
    let direct = serve().await;
    let rig = Rig::start(Setup::new(&[&direct])).await;
    let through = rig.url.clone();
    tokio::task::spawn_blocking(move || {
        let both = [direct, through].map(|url| serde_json::from_str(&see(&url)).unwrap());
        drop(rig);
        let [direct, through] = both;
        (direct, through)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_python_client_sees_the_same_through_the_sidecar() {
    let (direct, through) = seen(|url| python::run(include_str!("openai_client.py"), &[url])).await;
    assert_eq!(direct, through);
    assert_eq!((&direct["has_id"], &direct["after"], &direct["at_once"]), (&true.into(), &true.into(), &true.into()));
    let errors = direct["errors"].as_array().unwrap();
    assert_eq!(errors.iter().map(|e| e[1].as_u64().unwrap()).collect::<Vec<_>>(), [404, 400, 400]);
    let stop = direct["stop"]["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!stop.contains("FROM") && !stop.is_empty(), "{stop}");
    assert_eq!(direct["many"]["choices"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_node_client_sees_the_same_through_the_sidecar() {
    let see = |url: &str| {
        let root = env!("CARGO_MANIFEST_DIR");
        let made = Command::new(format!("{root}/scripts/node.sh")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let folder = String::from_utf8(made.stdout).unwrap();
        let script = format!("{root}/tests/it/sidecar/openai_client.mjs");
        let done = Command::new("node").args([&script, url, folder.trim()]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let (direct, through) = seen(see).await;
    assert_eq!(direct, through);
    assert_eq!((&direct["error"][1], &direct["after"]), (&404.into(), &true.into()));
}

/// The app of docker-compose.yml: each question is answered and logged, each thumb is on the feedback topic under the same id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_app_of_the_composition_asks_in_streams_and_says_what_it_thought() {
    let rig = Rig::start(Setup::new(&[&serve().await])).await;
    let app = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/app.py");
    let base_url = format!("{}/v1", rig.url);
    let run = move || {
        let settings = [("OPENAI_BASE_URL", base_url.as_str()), ("PAUSE_SECONDS", "0")];
        Command::new(python::program()).args([app, "4"]).envs(settings).output().unwrap()
    };
    let done = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said: Vec<Value> =
        String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&Value> = said.iter().map(|one| &one["id"]).collect();
    assert!(
        said.len() == 4 && said.iter().all(|one| one["answer"].as_str().unwrap().starts_with("SELECT")),
        "{said:?}"
    );
    let rows = rig.rows(4).await;
    assert_eq!(
        rows.iter().map(|row| json!(row.request_id)).collect::<Vec<_>>(),
        ids.iter().map(|id| (*id).clone()).collect::<Vec<_>>()
    );
    assert!(rows.iter().all(|row| row.stream == Some(true) && row.response.is_some()));
    let thumbs = rig.payloads(&rig.feedback, 4).await;
    for (thumb, one) in thumbs.iter().map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap()).zip(&said) {
        assert_eq!((&thumb["request_id"], thumb["thumb"] == "up"), (&one["id"], one["thumb"] == true));
    }
}
