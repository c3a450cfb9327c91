//! Promises of `serve`: OpenAI's API as clients know it, vLLM's adapter routes, and a log of every call.

use crate::support::serve;
use pelton::model::{Lora, LoraConfig, Model};
use pelton::serve::{Call, CallLog};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Calls(Mutex<Vec<Call>>);

impl CallLog for Calls {
    fn record(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }
}

struct Running {
    url: String,
    calls: Arc<Calls>,
    base: Arc<Model>,
}

impl Running {
    async fn start() -> Self {
        let (base, calls) = (serve::tiny(), Arc::<Calls>::default());
        let url = serve::serve(base.clone(), Some(calls.clone() as Arc<dyn CallLog>)).await + "/v1";
        Self { url, calls, base }
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        let response = request.header("x-request-id", "client-7").body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn chat(&self, body: Value) -> (u16, Value) {
        let (status, text) = self.post("/chat/completions", body.to_string()).await;
        (status, serde_json::from_str(&text).unwrap())
    }
}

fn question(extra: Value) -> Value {
    let mut body = json!({
        "model": "sql-tiny", "temperature": 0, "user": "user-3",
        "messages": [{"role": "user", "content": "How many customers are there?"}],
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_completion_has_openais_shape_and_is_logged_as_it_went_over_the_wire() {
    let server = Running::start().await;
    let (status, answer) = server.chat(question(json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_uppercase().starts_with("SELECT"),
        "{answer}"
    );
    let usage = &answer["usage"];
    assert_eq!(
        usage["total_tokens"],
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );
    let calls = server.calls.0.lock().unwrap();
    let [call] = calls.as_slice() else { panic!("{} calls were logged", calls.len()) };
    assert_eq!(call.request_id, answer["id"].as_str().unwrap());
    assert_eq!(call.client_request_id.as_deref(), Some("client-7"));
    assert_eq!((call.status_code, call.requester.as_deref()), (200, Some("user-3")));
    assert_eq!(call.model_version, None);
    assert_eq!(serde_json::from_str::<Value>(&call.response).unwrap(), answer);
    assert_eq!(serde_json::from_str::<Value>(&call.request).unwrap(), question(json!({})));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_do_not_depend_on_who_else_asks() {
    let server = Running::start().await;
    let seeded = |n: u64| question(json!({"temperature": 0.9, "seed": n}));
    let (_, alone) = server.chat(seeded(5)).await;
    let together = futures::future::join_all((0..8).map(|n| server.chat(seeded(n)))).await;
    assert_eq!(together[5].1["choices"], alone["choices"]);
    let (_, many) = server.chat(question(json!({"temperature": 1.0, "n": 4}))).await;
    assert_eq!(many["choices"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_refused_by_name_and_logged_too() {
    let server = Running::start().await;
    let cases: &[(Value, u16, &str, &str)] = &[
        (question(json!({"model": "gpt-9"})), 404, "model", "the model `gpt-9` does not exist; there is sql-tiny"),
        (
            question(json!({"response_format": {"type": "yaml"}})),
            400,
            "response_format",
            "must be `text`, `json_object`",
        ),
        (question(json!({"response_format": {"type": "json_schema"}})), 400, "response_format", "is missing"),
        (schema(json!({"type": "strng"})), 400, "response_format", "strng"),
        (question(json!({"tool_choice": "required"})), 400, "tool_choice", "is not supported"),
        (question(json!({"stop": [""]})), 400, "stop", "none of them empty"),
        (question(json!({"logprobs": true, "top_logprobs": 21})), 400, "top_logprobs", "at most 20"),
        (question(json!({"n": 0})), 400, "n", "`n` must be from 1"),
        (question(json!({"temperature": 3.5})), 400, "temperature", "from 0 to 2"),
        (question(json!({"messages": []})), 400, "messages", "`messages` is empty"),
        (question(json!({"messages": "hi"})), 400, "messages", "expected a sequence"),
        (
            question(json!({"messages": [{"role": "user", "content": "a ".repeat(20_000)}]})),
            400,
            "messages",
            "takes fewer than",
        ),
    ];
    for (body, status, param, message) in cases {
        let (got, answer) = server.chat(body.clone()).await;
        assert_eq!(got, *status, "{answer}");
        assert_eq!(answer["error"]["param"], *param, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(message), "{answer}");
    }
    let (status, text) = server.post("/chat/completions", "{not json").await;
    assert_eq!(status, 400, "{text}");
    assert_eq!(server.calls.0.lock().unwrap().len(), cases.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_come_and_go_as_with_vllm() {
    let server = Running::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = LoraConfig { rank: 4, alpha: 8.0, targets: vec!["q_proj".to_owned(), "v_proj".to_owned()] };
    let lora = Lora::new(server.base.config(), config, 1, &candle_core::Device::Cpu).unwrap();
    lora.save(folder.path(), "models/sql-tiny").unwrap();
    let load = json!({"lora_name": "sql-tiny@v1", "lora_path": folder.path()}).to_string();
    let (status, text) = server.post("/load_lora_adapter", load.clone()).await;
    assert_eq!((status, text.as_str()), (200, "Success: LoRA adapter 'sql-tiny@v1' added successfully."));
    assert_eq!(server.post("/load_lora_adapter", load).await.0, 400);

    let (status, answer) = server.chat(question(json!({"model": "sql-tiny@v1"}))).await;
    assert_eq!((status, answer["model"].as_str()), (200, Some("sql-tiny@v1")));
    assert_eq!(server.calls.0.lock().unwrap().last().unwrap().model_version.as_deref(), Some("sql-tiny@v1"));
    // B is zero in a fresh adapter: it must answer as the base does.
    let (_, base) = server.chat(question(json!({}))).await;
    assert_eq!(answer["choices"], base["choices"]);

    let models = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("{}/models", server.url));
    let models: Value = models.send().await.unwrap().json().await.unwrap();
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["sql-tiny", "sql-tiny@v1"]);
    assert_eq!(models["data"][1]["parent"], "sql-tiny");

    let nowhere = json!({"lora_name": "x", "lora_path": "/nonexistent"}).to_string();
    assert_eq!(server.post("/load_lora_adapter", nowhere).await.0, 404);
    let unload = json!({"lora_name": "sql-tiny@v1"}).to_string();
    assert_eq!(server.post("/unload_lora_adapter", unload.clone()).await.0, 200);
    assert_eq!(server.post("/unload_lora_adapter", unload).await.0, 404);
    assert_eq!(server.chat(question(json!({"model": "sql-tiny@v1"}))).await.0, 404);
}

/// The chunks of a streamed answer, and whether it ended as it should.
async fn chunks(server: &Running, path: &str, body: Value) -> Vec<Value> {
    let (status, text) = server.post(path, body.to_string()).await;
    assert_eq!(status, 200, "{text}");
    let mut events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events.pop(), Some("data: [DONE]"));
    events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_answer_amounts_to_the_whole_one() {
    let server = Running::start().await;
    for extra in [
        json!({}),
        json!({"temperature": 0.9, "n": 3, "seed": 4}),
        json!({"stop": ["FROM"], "logprobs": true, "top_logprobs": 3}),
        json!({"max_tokens": 3}),
    ] {
        let (_, whole) = server.chat(question(extra.clone())).await;
        let mut streamed = question(extra);
        streamed["stream"] = true.into();
        streamed["stream_options"] = json!({"include_usage": true});
        let chunks = chunks(&server, "/chat/completions", streamed).await;
        assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let mine = || chunks.iter().flat_map(|c| c["choices"].as_array().unwrap()).filter(|c| c["index"] == index);
            let text: String = mine().filter_map(|c| c["delta"]["content"].as_str()).collect();
            assert_eq!(choice["message"]["content"], text);
            let finish: Vec<&Value> = mine().map(|c| &c["finish_reason"]).filter(|f| !f.is_null()).collect();
            assert_eq!(finish, [&choice["finish_reason"]]);
            let logprobs: Vec<&Value> = mine().filter_map(|c| c["logprobs"]["content"].as_array()).flatten().collect();
            assert_eq!(logprobs.len(), choice["logprobs"]["content"].as_array().map_or(0, Vec::len));
        }
    }
    // What is logged of a stream is the whole answer too.
    let calls = server.calls.0.lock().unwrap();
    let logged: Value = serde_json::from_str(&calls[1].response).unwrap();
    let whole: Value = serde_json::from_str(&calls[0].response).unwrap();
    assert_eq!((&logged["choices"], calls[1].stream, calls[0].stream), (&whole["choices"], true, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_stop_texts_and_text_completions_are_openais() {
    let server = Running::start().await;
    let (_, answer) = server.chat(question(json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 4}))).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!((content.len(), &answer["choices"][0]["finish_reason"]), (4, &json!("length")));
    let text: String = content.iter().map(|t| t["token"].as_str().unwrap()).collect();
    assert_eq!(answer["choices"][0]["message"]["content"], text);
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        // Greedy: the drawn token is the most probable one, and tells the same number.
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
        assert!(top.len() == 2 && top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
    }
    let ask = json!({"model": "sql-tiny", "prompt": "<|bos|><|user|>How many customers are there?<|assistant|>",
        "temperature": 0, "max_tokens": 40, "logprobs": 0});
    let (status, text) = server.post("/completions", ask.to_string()).await;
    let completion: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, completion["object"].as_str()), (200, Some("text_completion")));
    let (_, chat) = server.chat(question(json!({"max_tokens": 40}))).await;
    assert_eq!(completion["choices"][0]["text"], chat["choices"][0]["message"]["content"]);
    let mut streamed = ask;
    streamed["stream"] = true.into();
    let chunks = chunks(&server, "/completions", streamed).await;
    let streamed: String = chunks.iter().map(|c| c["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(completion["choices"][0]["text"], streamed);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_join_others_under_way_on_any_adapter_and_too_many_are_refused() {
    let server = Running::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = LoraConfig { rank: 4, alpha: 8.0, targets: vec!["q_proj".to_owned(), "v_proj".to_owned()] };
    Lora::new(server.base.config(), config, 1, &candle_core::Device::Cpu).unwrap().save(folder.path(), "x").unwrap();
    for name in ["a@v1", "a@v2"] {
        let load = json!({"lora_name": name, "lora_path": folder.path()}).to_string();
        assert_eq!(server.post("/load_lora_adapter", load).await.0, 200);
    }
    let ask = |n: usize| {
        let model = ["sql-tiny", "a@v1", "a@v2"][n % 3];
        question(json!({"model": model, "temperature": 0.8, "seed": n / 3}))
    };
    let mut alone = Vec::new();
    for n in 0..12 {
        alone.push(server.chat(ask(n)).await.1["choices"].clone());
    }
    let together = futures::future::join_all((0..12).map(|n| server.chat(ask(n)))).await;
    for (n, (status, answer)) in together.into_iter().enumerate() {
        assert_eq!((status, &answer["choices"]), (200, &alone[n]), "request {n}");
    }
    // 64 may wait beside 16: of 200 at once some are told to come again, and the others are answered.
    let many = futures::future::join_all((0..200).map(|n| server.chat(ask(n)))).await;
    let refused = many.iter().filter(|(status, _)| *status == 429).count();
    assert!(refused > 0 && many.iter().all(|(status, _)| [200, 429].contains(status)), "{refused} refused");
}

/// A question whose answer must fit a schema.
fn schema(schema: Value) -> Value {
    let format = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}});
    question(json!({"response_format": format}))
}

/// Each answer that ended by itself is JSON that fits the schema, however wild the drawing: streamed or whole, greedy or
/// hot, and beside requests that may say anything.
#[tokio::test(flavor = "multi_thread")]
async fn answers_under_a_schema_fit_it() {
    let server = Running::start().await;
    let table = json!({
        "type": "object",
        "$defs": {"name": {"enum": ["customers", "orders", "products"]}},
        "properties": {
            "table": {"$ref": "#/$defs/name"},
            "rows": {"type": "integer", "minimum": 0, "maximum": 99},
            "sure": {"type": "boolean"},
        },
        "required": ["table", "rows", "sure"],
        "additionalProperties": false,
    });
    let fits = jsonschema::validator_for(&table).unwrap();
    let ask = |temperature: f64, seed: u64| {
        let mut body = schema(table.clone());
        let more = json!({"temperature": temperature, "seed": seed, "n": 8, "max_tokens": 64});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let free = question(json!({"n": 4, "seed": 1, "temperature": 1}));
    let (plain, (first, second), third) = tokio::join!(
        server.chat(free.clone()),
        async { tokio::join!(server.chat(ask(0.0, 1)), server.chat(ask(1.0, 2))) },
        server.chat(ask(1.7, 3)),
    );
    let mut ended = 0;
    for (status, answer) in [first, second, third] {
        assert_eq!(status, 200, "{answer}");
        for choice in answer["choices"].as_array().unwrap() {
            let text = choice["message"]["content"].as_str().unwrap();
            if choice["finish_reason"] == "length" {
                assert!(serde_json::from_str::<Value>(text).is_err_and(|e| e.is_eof()), "{text} is no beginning");
                continue;
            }
            ended += 1;
            let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(fits.is_valid(&value), "{text}");
        }
    }
    assert!(ended >= 12, "only {ended} of 24 answers ended within their limit");
    assert_eq!(server.chat(free).await.1["choices"], plain.1["choices"], "a free answer is what it is alone");

    let object = question(json!({"response_format": {"type": "json_object"}, "seed": 5, "temperature": 1, "n": 8}));
    for choice in server.chat(object).await.1["choices"].as_array().unwrap() {
        let text = choice["message"]["content"].as_str().unwrap();
        let read = serde_json::from_str::<Value>(text);
        let begun = choice["finish_reason"] == "length" && read.as_ref().is_err_and(serde_json::Error::is_eof);
        assert!(begun || read.is_ok_and(|value| value.is_object()), "{text}");
    }
    let streamed: String = chunks(&server, "/chat/completions", {
        let mut body = ask(0.0, 1);
        body["n"] = 1.into();
        body["stream"] = true.into();
        body
    })
    .await
    .iter()
    .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
    .collect();
    assert!(fits.is_valid(&serde_json::from_str(&streamed).unwrap()), "{streamed}");
}
