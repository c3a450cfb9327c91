//! The client of chat completions: what helps is tried again, what cannot is not, and limits are kept.

use crate::support::chat::{Act, ChatServer};
use crate::support::serve;
use pelton::config;
use pelton::domain::ChatMessage;
use pelton::tao::Watch;
use pelton::tao::endpoint::{Chat, Ending, Endpoint, Error};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn settings(url: &str) -> config::Endpoint {
    config::Endpoint { timeout_ms: 400, tries_max: 3, pause_ms_max: 1_500, ..config::Endpoint::new(url, "m") }
}

fn hello() -> Chat {
    Chat::new(vec![ChatMessage::user("hello")], 16)
}

fn open(settings: &config::Endpoint) -> Endpoint {
    Endpoint::open(settings).unwrap()
}

fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_pass_is_tried_again() {
    let prose = Act::Body("<html>bad gateway</html>".to_owned());
    let halves = Act::Body("{\"choices\": [{\"mess".to_owned());
    let empty = Act::Body("{\"choices\": []}".to_owned());
    for fault in [Act::Status(429, Some("0.1")), Act::Status(503, None), Act::Silence, Act::Break, prose, halves, empty]
    {
        let server = ChatServer::start([fault, say("hi")]).await;
        let reply = open(&settings(&server.url)).ask(&hello()).unwrap();
        assert_eq!(reply.choices[0].text, "hi");
        assert_eq!(reply.choices[0].ending, Ending::Stop);
        assert_eq!(server.asked().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_end_and_say_what_the_last_one_met() {
    let cases = [
        (Act::Status(429, Some("0.05")), 3, "in 3 tries", "429"),
        (Act::Silence, 3, "in 3 tries", "no answer in time"),
        (Act::Body("I am a proxy".to_owned()), 3, "in 3 tries", "I am a proxy"),
        // Longer than the longest pause: waiting for it is not what the settings allow.
        (Act::Status(429, Some("3600")), 1, "in 1 tries", "429"),
        (Act::Status(401, None), 1, "refuses the call with 401", "not now"),
        (Act::Status(400, None), 1, "refuses the call with 400", "not now"),
    ];
    for (act, calls, what, why) in cases {
        let server = ChatServer::start([act]).await;
        let error = open(&settings(&server.url)).ask(&hello()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(why) && error.contains(&server.url), "{error}");
        assert_eq!(server.asked().len(), calls, "{error}");
    }
    let error = open(&settings("http://127.0.0.1:1/v1")).ask(&hello()).unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_a_server_asks_for_is_kept_by_all_calls() {
    let server = ChatServer::start([Act::Status(429, Some("1")), say("hi")]).await;
    let begun = Instant::now();
    open(&settings(&server.url)).ask(&hello()).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "asked again after {:?}", begun.elapsed());
    let server = ChatServer::start([say("hi")]).await;
    let paced = config::Endpoint { requests_per_minute: Some(600), ..settings(&server.url) };
    let begun = Instant::now();
    let replies = all(&open(&paced), &vec![hello(); 4]);
    assert!(replies.iter().all(Result::is_ok));
    assert!(begun.elapsed() >= Duration::from_millis(300), "4 calls at 10 a second took {:?}", begun.elapsed());
}

fn all(endpoint: &Endpoint, chats: &[Chat]) -> Vec<Result<pelton::tao::endpoint::Reply, Error>> {
    endpoint.ask_all("judge", chats, &Watch::new(&|_| {}, &AtomicBool::new(false)))
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_keep_the_order_and_no_more_calls_are_under_way_than_allowed() {
    let echo = |request: &serde_json::Value| request["messages"][0]["content"].as_str().unwrap().to_owned();
    let server = ChatServer::start([Act::Answer(echo)]).await;
    let endpoint = open(&config::Endpoint { concurrency: 3, ..settings(&server.url) });
    let chats: Vec<Chat> = (0..12).map(|i| Chat::new(vec![ChatMessage::user(i.to_string())], 4)).collect();
    let seen = AtomicUsize::new(0);
    let count = |p: pelton::tao::Progress| {
        seen.fetch_max(p.done, Ordering::Relaxed);
    };
    let replies = endpoint.ask_all("judge", &chats, &Watch::new(&count, &AtomicBool::new(false)));
    let texts: Vec<String> = replies.into_iter().map(|r| r.unwrap().choices[0].text.clone()).collect();
    assert_eq!(texts, (0..12).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!(seen.load(Ordering::Relaxed), 12);
    assert_eq!(server.stage.lock().unwrap().under_way_max, 3);
    assert_eq!(endpoint.spent().calls, 12);
    assert_eq!(endpoint.spent().prompt_tokens, 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_choices_come_back_as_were_asked_for_with_other_seeds() {
    let server = ChatServer::start([say("one"), say("two"), say("three")]).await;
    let chat = Chat { n: 3, seed: Some(u64::MAX), stop: vec!["\n".to_owned()], logprobs: true, ..hello() };
    let reply = open(&settings(&server.url)).ask(&chat).unwrap();
    let texts: Vec<&str> = reply.choices.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    assert_eq!(reply.usage.answer_tokens, 15);
    let asked = server.asked();
    assert_eq!((&asked[0]["n"], &asked[1]["n"], &asked[2]["n"]), (&3.into(), &2.into(), &serde_json::Value::Null));
    assert_eq!(asked[0]["seed"], 0x7fff_ffff);
    assert_eq!(asked[0]["stop"][0], "\n");
    assert_eq!(asked[0]["logprobs"], true);
    assert!(asked[0]["seed"] != asked[1]["seed"] && asked[1]["seed"] != asked[2]["seed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_kept_and_said_to_be_spent() {
    let server = ChatServer::start([say("hi")]).await;
    let tokens = config::Endpoint { tokens_max: Some(60), concurrency: 1, ..settings(&server.url) };
    let endpoint = open(&tokens);
    let replies = all(&endpoint, &vec![hello(); 9]);
    let answered = replies.iter().filter(|r| r.is_ok()).count();
    assert!((2..9).contains(&answered), "{answered} calls of 15 tokens in a budget of 60");
    assert!(endpoint.spent().prompt_tokens + endpoint.spent().answer_tokens <= 60);
    let error = replies.iter().find_map(|r| r.as_ref().err()).unwrap().to_string();
    assert!(error.contains("budget") && error.contains("tokens_max"), "{error}");
    assert_eq!(server.asked().len(), answered, "what the budget does not allow is not sent");

    let price = config::Endpoint {
        price_max: Some(1e-4),
        price_per_million_prompt: 1.0,
        price_per_million_answer: 4.0,
        concurrency: 1,
        ..settings(&server.url)
    };
    let endpoint = open(&price);
    let answered = all(&endpoint, &vec![hello(); 9]).iter().filter(|r| r.is_ok()).count();
    assert!((1..9).contains(&answered), "{answered} calls of 0.00003 in a budget of 0.0001");
    assert!(endpoint.spent().price <= 1e-4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_ends_at_once_with_what_it_has() {
    let server = ChatServer::start([say("hi"), Act::Silence]).await;
    let patient = config::Endpoint { timeout_ms: 600_000, concurrency: 2, ..settings(&server.url) };
    let cancelled = AtomicBool::new(false);
    let stop = |_: pelton::tao::Progress| cancelled.store(true, Ordering::Relaxed);
    let replies = open(&patient).ask_all("judge", &vec![hello(); 5], &Watch::new(&stop, &cancelled));
    assert_eq!(replies.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(replies.iter().filter(|r| **r == Err(Error::Cancelled)).count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_sent_and_never_shown() {
    let server = ChatServer::start([Act::Status(401, None)]).await;
    let key = std::env::var("PATH").unwrap();
    let keyed = config::Endpoint { api_key_env: Some("PATH".to_owned()), ..settings(&server.url) };
    let error = open(&keyed).ask(&hello()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&key));
    assert_eq!(server.stage.lock().unwrap().keys, [Some(format!("Bearer {key}"))]);
}

#[test]
fn settings_that_cannot_work_say_what_would() {
    let cases = [
        ("localhost:8000/v1", "scheme"),
        ("not a url", "such as http://"),
        ("http://user:secret@host/v1", "api_key_env"),
    ];
    for (url, hint) in cases {
        let error = Endpoint::open(&settings(url)).unwrap_err().to_string();
        assert!(error.contains(hint) && !error.contains("secret@"), "{error}");
    }
    let keyed = config::Endpoint { api_key_env: Some("PELTON_NO_SUCH_KEY".into()), ..settings("http://h/v1") };
    let error = Endpoint::open(&keyed).unwrap_err().to_string();
    assert!(error.contains("PELTON_NO_SUCH_KEY") && error.contains("not set"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_speaks_with_pelton_serve() {
    let url = format!("{}/v1/", serve::serve(serve::tiny(), None).await);
    let mut settings = config::Endpoint::new(url, "sql-tiny");
    let chat = Chat {
        n: 3,
        temperature: 1.0,
        seed: Some(5),
        ..Chat::new(vec![ChatMessage::user("How many customers are there?")], 48)
    };
    let reply = open(&settings).ask(&chat).unwrap();
    assert_eq!(reply.choices.len(), 3);
    assert!(reply.choices.iter().any(|c| c.text.contains("SELECT")), "{reply:?}");
    assert!(reply.usage.prompt_tokens > 0 && reply.usage.answer_tokens > 0);
    assert_eq!(open(&settings).ask(&chat).unwrap(), reply, "the same seed, the same answers");
    settings.model = "nobody".to_owned();
    let error = open(&settings).ask(&chat).unwrap_err();
    assert!(matches!(error, Error::Refused { status: 404, .. }), "{error}");
}
