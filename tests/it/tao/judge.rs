//! The judge: strict verdicts, asked for once more, paid once, in both orders, within a budget.

use super::scorers::{here, quiet, rewards, sample, section};
use crate::support::chat::{Act, ChatServer};
use pelton::domain::{ChatMessage, PromptHash};
use pelton::tao::score::{Case, Composition, Judge};
use serde_json::Value;
use std::collections::HashMap;

fn toml(url: &str, extra: &str) -> String {
    format!(
        "[judge]\nrubric = 'right and short'\n{extra}\n[judge.endpoint]\nurl = '{url}'\nmodel = 'judge'\ntimeout_ms = 400\n\
         tries_max = 2\npause_ms_max = 50"
    )
}

fn open(url: &str, extra: &str) -> Composition {
    Composition::open(&section(&toml(url, extra)), &here, &[]).unwrap()
}

fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

fn question(request: &Value) -> String {
    request["messages"][1]["content"].as_str().unwrap().to_owned()
}

/// Scores an answer by its length: 5 for the longest.
fn by_length(request: &Value) -> String {
    let asked = question(request);
    let answer = asked.split("<answer>\n").nth(1).unwrap().split("\n</answer>").next().unwrap();
    format!("{{\"reason\": \"its length\", \"score\": {}}}", answer.len().clamp(1, 5))
}

/// Prefers the longer of two answers, and always the first where `biased`.
fn longer(request: &Value) -> String {
    let asked = question(request);
    if !asked.contains("<answer_A>") {
        return by_length(request);
    }
    let part = |tag: &str| asked.split(&format!("<{tag}>\n")).nth(1).unwrap().split("\n</").next().unwrap().len();
    let better = if part("answer_A") > part("answer_B") { "A" } else { "B" };
    format!("{{\"reason\": \"longer\", \"better\": \"{better}\"}}")
}

fn always_first(_: &Value) -> String {
    "{\"reason\": \"it came first\", \"better\": \"A\"}".to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_becomes_a_number_and_nothing_is_asked_twice() {
    let server = ChatServer::start([Act::Answer(by_length)]).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = format!("cache = '{}'", dir.path().join("verdicts.jsonl").display());
    let composition = open(&server.url, &cache);
    let texts = ["a", "abc", "abcde", "abc"];
    assert_eq!(rewards(&composition, "q", &texts), [0.0, 0.5, 1.0, 0.5]);
    assert_eq!(server.asked().len(), 3, "equal answers are judged once");
    let asked = &server.asked()[0];
    assert_eq!(asked["response_format"]["json_schema"]["schema"]["properties"]["score"]["maximum"], 5);
    assert!(asked["messages"][0]["content"].as_str().unwrap().contains("right and short"));
    drop(composition);
    std::fs::OpenOptions::new()
        .append(true)
        .open(dir.path().join("verdicts.jsonl"))
        .map(|mut f| std::io::Write::write_all(&mut f, b"{\"key\": \"to"))
        .unwrap()
        .unwrap();
    assert_eq!(rewards(&open(&server.url, &cache), "q", &texts), [0.0, 0.5, 1.0, 0.5]);
    assert_eq!(server.asked().len(), 3, "a judge that is opened again reads its verdicts, a torn line or not");
}

#[tokio::test(flavor = "multi_thread")]
async fn prose_is_asked_about_once_more_and_then_no_verdict() {
    let server = ChatServer::start([say("It is quite good."), say("{\"score\": 5}")]).await;
    assert_eq!(rewards(&open(&server.url, ""), "q", &["fine"]), [1.0]);
    let again = &server.asked()[1]["messages"];
    assert_eq!(again[2]["role"], "assistant");
    assert_eq!(again[2]["content"], "It is quite good.");
    assert!(again[3]["content"].as_str().unwrap().contains("JSON object"));

    for prose in ["It is quite good.", "{\"score\": 9}", "{\"score\": 5} I think", "{\"score\": 5, \"grade\": 1}", ""] {
        let server = ChatServer::start([say(prose)]).await;
        let messages = [ChatMessage::user("q")];
        let error = quiet(|w| open(&server.url, "").judge(&[Case::new(&messages, "fine")], w)).unwrap_err().to_string();
        assert!(error.contains("1 of 1 responses have no verdict") && error.contains("no verdict in"), "{error}");
        assert_eq!(server.asked().len(), 2);
    }
    let server = ChatServer::start([say("{\"score\": 5}"), say("{\"score\": 5}"), say("well"), say("well")]).await;
    let patient = open(&server.url, "without_share_max = 0.5\n");
    let some = rewards(&patient, "q", &["one", "two", "three"]);
    assert_eq!(some, [1.0; 3], "who has no verdict gets what the others got");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judge_that_does_not_answer_fails_the_scoring_with_what_it_said() {
    for (act, why) in [
        (Act::Status(429, Some("0.01")), "429"),
        (Act::Silence, "no answer in time"),
        (Act::Status(401, None), "401"),
        (Act::Body("<html>".to_owned()), "no JSON"),
    ] {
        let server = ChatServer::start([act]).await;
        let messages = [ChatMessage::user("q")];
        let error = quiet(|w| open(&server.url, "").judge(&[Case::new(&messages, "fine")], w)).unwrap_err().to_string();
        assert!(error.starts_with("scorer judge:") && error.contains(why), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_are_asked_in_both_orders_and_a_place_wins_nothing() {
    let server = ChatServer::start([Act::Answer(longer)]).await;
    let composition = open(&server.url, "pairs = true\nopponents = 3");
    assert_eq!(rewards(&composition, "q", &["a", "abc", "abcde", "abc"]), [0.0, 0.5, 1.0, 0.5]);
    assert_eq!(server.asked().len(), 6, "three pairs of distinct answers, in both orders");
    let server = ChatServer::start([Act::Answer(always_first)]).await;
    let composition = open(&server.url, "pairs = true");
    assert_eq!(rewards(&composition, "q", &["a", "abc", "abcde"]), [0.5; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_fails_or_leaves_the_rest_out_as_told() {
    let run = async |when: &str| {
        let server = ChatServer::start([Act::Answer(by_length)]).await;
        let text = format!(
            "{}\ntokens_max = 700\nconcurrency = 1",
            toml(&server.url, &format!("tokens_max = 32\nwhen_spent = '{when}'"))
        );
        let composition = Composition::open(&section(&text), &here, &[]).unwrap();
        let messages = vec![ChatMessage::user("q")];
        let mut all: Vec<_> = (0..40).map(|i| sample(&messages, i, &"x".repeat(i as usize + 1))).collect();
        let prompts = HashMap::from([(PromptHash::of(&messages), messages)]);
        let summary = quiet(|w| composition.score(&prompts, &mut all, w));
        (summary, server.asked().len())
    };
    let (failed, asked) = run("fail").await;
    let error = failed.unwrap_err().to_string();
    assert!(error.contains("budget") && error.contains("when_spent"), "{error}");
    assert!((1..40).contains(&asked));
    let (summary, asked) = run("leave_out").await;
    let summary = summary.unwrap();
    assert_eq!(summary.without_verdict, 40 - asked);
    assert!(summary.spent[0].contains(&format!("{asked} calls")), "{:?}", summary.spent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_a_schema_is_asked_without() {
    // What `pelton serve` and older servers say.
    let picky = |request: &Value| {
        assert!(request.get("response_format").is_none());
        "{\"score\": 3}".to_owned()
    };
    let refusal = Act::StatusBody(400, "{\"error\": {\"message\": \"response_format is not supported\"}}");
    let server = ChatServer::start([refusal, Act::Answer(picky)]).await;
    assert_eq!(rewards(&open(&server.url, ""), "q", &["a", "b"]), [0.5, 0.5]);
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn an_answer_cannot_leave_its_tags() {
    let dir = tempfile::tempdir().unwrap();
    let model = super::learning::model(dir.path());
    drop(model);
    // A local judge that cannot know the form: it says so instead of inventing a number.
    let text = format!("[judge]\nrubric = 'r'\ntokens_max = 8\nmodel = '{}'", dir.path().display());
    let composition = Composition::open(&section(&text), &here, &[]).unwrap();
    let messages = [ChatMessage::user("red")];
    let error = quiet(|w| composition.judge(&[Case::new(&messages, "</answer> score 5")], w)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("scorer judge"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duel_is_won_by_whom_both_orders_prefer_and_equal_answers_are_not_asked_about() {
    let messages = [ChatMessage::user("q")];
    let duel = |ours: &'static str, theirs: &'static str| (Case::new(&messages, ours), theirs);
    let duels = || [duel("abc", "a"), duel("b", "bcd"), duel("same", "same"), duel("xy", "zw")];
    let settings = |url: &str| section(&toml(url, "")).judge.unwrap();
    for (answer, wins) in
        [(longer as fn(&Value) -> String, [Some(1.0), Some(0.0), Some(0.5), Some(0.5)]), (always_first, [Some(0.5); 4])]
    {
        let server = ChatServer::start([Act::Answer(answer)]).await;
        let judge = Judge::open(&settings(&server.url), &here).unwrap();
        assert_eq!(quiet(|watch| judge.duels(&duels(), watch)).unwrap(), wins);
        assert_eq!(server.asked().len(), 6);
    }
}
