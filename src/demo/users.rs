//! Simulated users: they ask over HTTP, many at once, as any OpenAI client would.

use crate::demo::questions::Question;
use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use indicatif::ProgressBar;
use serde_json::{Value, json};

/// Users who wait for an answer at the same time.
const USERS: usize = 64;

/// Asks every question of one model, and gives the answers in the questions' order.
pub(super) async fn ask(
    address: &str,
    model: &str,
    questions: &[Question],
    temperature: f64,
    bar: &ProgressBar,
) -> Result<Vec<String>> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://{address}/v1/chat/completions");
    let one = |(user, question): (usize, &Question)| {
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": question.text}],
            "temperature": temperature,
            "stream": true,
            "user": format!("user-{}", user % USERS),
        });
        let request = client.post(&url).json(&body);
        async move {
            let response = request.send().await.context("the server does not answer")?;
            let status = response.status();
            let text = response.text().await.context("the answer broke off")?;
            bar.inc(1);
            match said(&text) {
                Some(text) if status.is_success() => Ok(text),
                _ => bail!("the server answered {status}: {text}"),
            }
        }
    };
    let answers: Vec<Result<String>> =
        futures::stream::iter(questions.iter().enumerate().map(one)).buffered(USERS).collect().await;
    answers.into_iter().collect()
}

/// The text of a streamed answer; nothing where it did not come to its end.
fn said(stream: &str) -> Option<String> {
    let events =
        stream.strip_suffix("data: [DONE]\n\n")?.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let chunks = events.map(|event| serde_json::from_str::<Value>(event).ok());
    chunks.map(|chunk| Some(chunk?["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())).collect()
}

/// Loads a version on the server, as the sidecar of an inference server would.
pub(super) async fn load_version(address: &str, name: &str, folder: &str) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://{address}/v1/load_lora_adapter");
    let response = client.post(url).json(&json!({"lora_name": name, "lora_path": folder})).send().await?;
    if !response.status().is_success() {
        bail!("{name} was not loaded: {}", response.text().await.unwrap_or_default());
    }
    Ok(())
}
