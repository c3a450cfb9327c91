//! Windows: the same data gives the same set, a prompt stays on its side, and every row is accounted for.

use crate::support::tables::{LogRow, asked, inference_log, log_batch, table};
use arrow::datatypes::{DataType, Field, Schema};
use pelton::config;
use pelton::domain::{Exclusion, PromptHash, Split, Timestamp, TrainingSet, WindowName};
use pelton::query::Sources;
use pelton::window::{self, Error, Preview, Request, check, choose, enough, split_of};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const SQL: &str = "SELECT request_id, request_time, messages FROM inference_log \
                   WHERE request_time >= $since AND request_time < $until";

fn name() -> WindowName {
    WindowName::new("fresh").unwrap()
}

fn config(sql: &str, prompts_max: usize) -> config::Window {
    let text = format!("sql = '''{sql}'''\nprompts_min = 2\nprompts_max = {prompts_max}\nholdout_share = 0.25\n");
    toml::from_str(&text).unwrap()
}

async fn chosen(rows: &[LogRow], sql: &str, prompts_max: usize) -> Result<TrainingSet, Error> {
    let (name, window) = (name(), config(sql, prompts_max));
    let request = Request {
        name: &name,
        window: &window,
        table_version: 7,
        since: Timestamp::from_micros(0),
        until: Timestamp::from_micros(1_000_000),
        avoid: &[],
    };
    choose(&request, vec![inference_log(rows)]).await
}

fn ids(set: &TrainingSet) -> BTreeSet<&str> {
    set.train.iter().chain(&set.holdout).map(|p| p.request_id.as_str()).collect()
}

fn reasons(set: &TrainingSet) -> Vec<(&str, Exclusion)> {
    set.left_out.iter().map(|l| (l.request_id.as_str(), l.why.clone())).collect()
}

#[tokio::test]
async fn every_row_is_taken_or_left_out_with_its_reason() {
    let rows = [
        asked("a-old", 10, "a"),
        asked("a-new", 20, "a"),
        asked("b", 30, "b"),
        asked("c", 40, "c"),
        asked("d-tie-1", 50, "d"),
        asked("d-tie-2", 50, "d"),
        ("no-messages".to_owned(), 60, None),
        ("not-json".to_owned(), 61, Some("{".to_owned())),
        ("no-user".to_owned(), 62, Some(r#"[{"role":"system","content":"be brief"}]"#.to_owned())),
        asked("blank", 63, "  "),
        asked("too-late", 1_000_000, "e"),
    ];
    let set = chosen(&rows, SQL, 3).await.unwrap();
    assert_eq!(ids(&set), BTreeSet::from(["b", "c", "d-tie-2"]), "the latest three of the four prompts");
    assert_eq!(
        reasons(&set),
        [
            ("a-old", Exclusion::Duplicate),
            ("d-tie-1", Exclusion::Duplicate),
            ("blank", Exclusion::NoPrompt),
            ("no-messages", Exclusion::NoPrompt),
            ("no-user", Exclusion::NoPrompt),
            ("not-json", Exclusion::NoPrompt),
            ("a-new", Exclusion::OverMaximum),
        ]
    );
    assert_eq!((set.table_version, set.sql.as_str()), (7, SQL));
    let window = config(SQL, 3);
    let preview = Preview::of(&set, &window);
    assert_eq!(preview.rows, 10);
    assert_eq!(preview.left_out[&Exclusion::NoPrompt], 4);
    assert_eq!(preview.left_out_samples(&Exclusion::Duplicate, 1)[0].prompt.as_deref(), Some("a"));
}

#[tokio::test]
async fn errors_near_duplicates_evaluation_sets_and_busy_users_are_left_out_and_strata_share_the_room() {
    let sql = "SELECT request_id, request_time, messages, split_part(request_id, '-', 1) AS requester, \
               split_part(request_id, '-', 2) AS stratum, split_part(request_id, '-', 3) = 'bad' AS error \
               FROM inference_log WHERE request_time >= $since AND request_time < $until";
    let long = "list every customer in Berlin who ordered more than three times in the last year";
    let rows = [
        asked("ann-big-1", 10, "first question of ann about her orders"),
        asked("ann-big-2", 20, "second thing that she wanted to know"),
        asked("ann-big-3", 30, "a third and last request for today"),
        asked("bob-big-1", 40, "what does shipping to Norway cost"),
        asked("cat-big-1", 50, "who is the oldest supplier that we have"),
        asked("dan-small-1", 5, "how are refunds booked in the ledger"),
        asked("eve-big-bad", 60, "something that was answered with an error"),
        asked("fay-big-1", 70, long),
        asked("gil-big-1", 80, &format!("{long} please")),
        asked("hal-big-1", 90, "Which table holds the invoices of March, and who wrote them?"),
    ];
    let (name, mut window) = (name(), config(sql, 4));
    (window.near_duplicates, window.per_user_max) = (Some(0.7), Some(2));
    let avoid = ["which table holds the invoices of march and who wrote them".to_owned()];
    let (since, until) = (Timestamp::EPOCH, Timestamp::from_millis(1000));
    let request = Request { name: &name, window: &window, table_version: 0, since, until, avoid: &avoid };
    let set = choose(&request, vec![inference_log(&rows)]).await.unwrap();
    // The small stratum's one prompt is taken although it is the oldest; the rest is the latest of the big one.
    assert_eq!(ids(&set), BTreeSet::from(["dan-small-1", "gil-big-1", "cat-big-1", "bob-big-1"]));
    assert_eq!(
        reasons(&set),
        [
            ("eve-big-bad", Exclusion::Error),
            ("fay-big-1", Exclusion::NearDuplicate),
            ("hal-big-1", Exclusion::Contaminated),
            ("ann-big-1", Exclusion::UserMaximum),
            ("ann-big-2", Exclusion::OverMaximum),
            ("ann-big-3", Exclusion::OverMaximum),
        ]
    );
    assert_eq!(set.reasons.len(), 4);
    assert!(
        set.reasons.values().any(|why| why == "the only call with this prompt; of the stratum `small`"),
        "{:?}",
        set.reasons
    );
}

#[tokio::test]
async fn a_weight_makes_a_prompt_as_much_more_likely() {
    let sql = "SELECT request_id, request_time, messages, CASE WHEN request_id LIKE 'heavy%' THEN 3.0 \
               WHEN request_id LIKE 'never%' THEN 0.0 ELSE 1.0 END AS weight \
               FROM inference_log WHERE request_time >= $since AND request_time < $until";
    let kinds = ["heavy", "light", "never"];
    let rows: Vec<LogRow> = (0..600)
        .map(|i| asked(&format!("{}-{i}", kinds[i % 3]), 1 + i64::try_from(i).unwrap(), &format!("q{i}")))
        .collect();
    let set = chosen(&rows, sql, 100).await.unwrap();
    let of = |kind: &str| ids(&set).iter().filter(|id| id.starts_with(kind)).count();
    assert_eq!((of("heavy") + of("light"), of("never")), (100, 0));
    // Three to one, but for those that are used up: about 70 of 100. The draw is a hash, so that this is the same each time.
    assert!((62..=80).contains(&of("heavy")), "{}", of("heavy"));
}

#[tokio::test]
async fn the_set_does_not_depend_on_the_order_of_the_rows() {
    let mut rows: Vec<LogRow> =
        (0..300).map(|i| asked(&format!("r-{i}"), 1 + (i * 37) % 100, &format!("q{}", i % 190))).collect();
    let first = chosen(&rows, SQL, 120).await.unwrap();
    assert_eq!(first, chosen(&rows, SQL, 120).await.unwrap());
    rows.reverse();
    let second = chosen(&rows, SQL, 120).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(first.train.len() + first.holdout.len(), 120);
    assert_eq!(first.left_out.len(), 180);
    assert!(first.train.is_sorted_by_key(|p| (p.request_time, p.request_id.clone())));
}

#[tokio::test]
async fn an_unordered_limit_takes_the_same_rows_each_time() {
    let batches = |from: i64| {
        log_batch(&(from..from + 50).map(|i| asked(&format!("{i}"), i, &format!("{i}"))).collect::<Vec<_>>())
    };
    let (name, window) = (name(), config(&format!("{SQL} LIMIT 60"), 1000));
    let mut sets = Vec::new();
    for _ in 0..5 {
        let tables = vec![table("inference_log", (0..8).map(|p| batches(p * 50)).collect())];
        let (since, until) = (Timestamp::EPOCH, Timestamp::from_millis(1000));
        let request = Request { name: &name, window: &window, table_version: 0, since, until, avoid: &[] };
        sets.push(choose(&request, tables).await.unwrap());
    }
    assert!(sets.iter().all(|set| *set == sets[0]));
}

proptest! {
    /// Whatever else is in the window, whenever it was asked and whatever the maximum: the side is the prompt's own.
    #[test]
    fn a_prompt_stays_on_its_side(texts in proptest::collection::vec("[a-z]{1,6}", 1..60), prompts_max in 1usize..60, shift in 0i64..1000) {
        let rows: Vec<LogRow> = texts.iter().enumerate()
            .map(|(i, text)| asked(&format!("r-{i}"), shift + i64::try_from(i).unwrap(), text)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let set = runtime.block_on(chosen(&rows, SQL, prompts_max)).unwrap();
        for prompt in &set.train {
            prop_assert_eq!(split_of(prompt.hash, 0.25), Split::Train);
        }
        for prompt in &set.holdout {
            prop_assert_eq!(split_of(prompt.hash, 0.25), Split::Holdout);
        }
        let hashes: BTreeSet<PromptHash> = set.train.iter().chain(&set.holdout).map(|p| p.hash).collect();
        let distinct = texts.iter().collect::<BTreeSet<_>>().len();
        prop_assert_eq!(hashes.len(), distinct.min(prompts_max));
        prop_assert_eq!(set.train.len() + set.holdout.len() + set.left_out.len(), texts.len());
    }
}

#[test]
fn the_split_is_fixed_for_ever() {
    // These sides are part of the format: a change would move prompts that were trained on into a holdout.
    assert_eq!(window::SPLIT_SALT, "pelton/holdout/1");
    let side = |i: u32| split_of(PromptHash::of_canonical(&i.to_string()), 0.25);
    let holdout: Vec<u32> = (0..24).filter(|i| side(*i) == Split::Holdout).collect();
    assert_eq!(holdout, EXPECTED_HOLDOUT);
    let share = (0..4000).filter(|i| side(*i) == Split::Holdout).count();
    assert!((900..1100).contains(&share), "{share} of 4000");
    // A greater share only adds prompts to the holdout.
    let hash = |i: u32| PromptHash::of_canonical(&i.to_string());
    assert!((0..1000).all(|i| split_of(hash(i), 0.1) == Split::Train || split_of(hash(i), 0.25) == Split::Holdout));
}

const EXPECTED_HOLDOUT: &[u32] = &[5, 9, 13, 16, 22];

#[tokio::test]
async fn a_prompt_column_does_instead_of_messages() {
    let sql = "SELECT request_id, request_time, 'Question ' || request_id AS prompt FROM inference_log";
    let set = chosen(&[asked("1", 5, "x"), asked("2", 6, "x")], sql, 10).await.unwrap();
    let all: Vec<_> = set.train.iter().chain(&set.holdout).map(|p| p.messages[0].content.as_str()).collect();
    assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from(["Question 1", "Question 2"]));
}

#[tokio::test]
async fn too_few_prompts_are_said_with_figures() {
    let window = config(SQL, 10);
    let set = chosen(&[("x".to_owned(), 5, None)], SQL, 10).await.unwrap();
    let error = enough(&set, &window, 1).unwrap_err();
    assert_eq!(error.to_string(), "window `fresh` has 0 prompts to train on, and needs 2");
    assert_eq!(Preview::of(&set, &window).shortage, Some(error.to_string()));
    let rows: Vec<LogRow> = (0..40).map(|i| asked(&i.to_string(), i, &format!("q{i}"))).collect();
    let set = chosen(&rows, SQL, 100).await.unwrap();
    assert!(enough(&set, &window, set.holdout.len()).is_ok());
    // With too few to judge by, the prompts would be spent on a version that can only be refused.
    let error = enough(&set, &window, set.holdout.len() + 1).unwrap_err();
    assert!(error.to_string().contains("gate.prompts_min"), "{error}");
}

#[tokio::test]
async fn a_window_is_checked_without_a_row() {
    let tables = [("inference_log".to_owned(), log_batch(&[]).schema())];
    check(&name(), SQL, Sources::declared(&tables)).await.unwrap();
    check(&name(), &format!("{SQL} AND prompt_hash(messages) IS NOT NULL"), Sources::declared(&tables)).await.unwrap();
    for (sql, says) in [
        (
            "SELECT request_id, request_time, mesages FROM inference_log",
            "window `fresh`: unknown column `mesages`; did you mean `messages`?",
        ),
        ("SELECT request_id, request_time, messages FROM inference_lgo", "did you mean `inference_log`?"),
        (
            "SELECT request_id, messages FROM inference_log",
            "window `fresh`: its SQL returns no column `request_time`; it returns `request_id`, `messages`",
        ),
        (
            "SELECT request_id, request_time FROM inference_log",
            "returns no column `messages` (and no `prompt` instead)",
        ),
        (
            "SELECT request_id, request_id AS request_time, messages FROM inference_log",
            "column `request_time` has the type Utf8, and must be a timestamp",
        ),
        (
            "SELECT output_tokens AS request_id, request_time, messages FROM inference_log",
            "column `request_id` has the type Int64, and must be a text",
        ),
        (
            "SELECT * FROM inference_log WHERE request_time > $now",
            "`$now`, which has no value here; a window's SQL may use `$since` and `$until`",
        ),
        ("SELECT * FROM inference_log WHERE request_time > true", "window `fresh`: "),
        ("DELETE FROM inference_log", "DELETE FROM is not allowed"),
        ("SELECT", "is not valid SQL"),
    ] {
        let error = check(&name(), sql, Sources::declared(&tables)).await.unwrap_err().to_string();
        assert!(error.contains(says), "{sql}\n{error}");
    }
}

#[tokio::test]
async fn a_row_without_an_id_is_named() {
    let sql = "SELECT nullif(request_id, 'b') AS request_id, request_time, messages FROM inference_log";
    let error = chosen(&[asked("a", 1, "x"), asked("b", 2, "y")], sql, 10).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "window `fresh`: row 2 of its answer has no `request_id`; leave such rows out by a WHERE"
    );
}

#[tokio::test]
async fn text_views_and_other_time_units_are_read() {
    let sql = "SELECT arrow_cast(request_id, 'Utf8View') AS request_id, \
               arrow_cast(request_time, 'Timestamp(Millisecond, None)') AS request_time, \
               arrow_cast(messages, 'LargeUtf8') AS messages FROM inference_log";
    let set = chosen(&[asked("a", 1_000, "x")], sql, 10).await.unwrap();
    assert_eq!(set.train.iter().chain(&set.holdout).next().unwrap().request_time, Timestamp::from_millis(1));
    let schema = Arc::new(Schema::new(vec![Field::new("request_id", DataType::Utf8, false)]));
    assert!(check(&name(), sql, Sources::declared(&[("inference_log".to_owned(), schema)])).await.is_err());
}

#[tokio::test]
async fn conversations_that_only_end_alike_are_no_duplicates() {
    let turns = |first: &str, last: &str| {
        let said = [("user", first), ("assistant", "Shall I?"), ("user", last)];
        let all = said.map(|(role, content)| serde_json::json!({"role": role, "content": content}));
        Some(serde_json::Value::from(all.to_vec()).to_string())
    };
    let row = |id: &str, at: i64, messages| (id.to_owned(), at, messages);
    let rows = [
        row("a", 1, turns("Cancel the order 17 of last week, please", "yes")),
        row("b", 2, turns("Send a reminder to all who have not paid in May", "yes")),
        row("c", 3, turns("Send a reminder to all who have not paid in May", "Yes!")),
        row("d", 4, turns("Tell me of", "the largest orders of this summer")),
    ];
    let name = name();
    let window = config::Window { near_duplicates: Some(0.8), ..config(SQL, 100) };
    let avoid = ["The largest orders of this summer?".to_owned()];
    let (since, until) = (Timestamp::EPOCH, Timestamp::from_micros(9));
    let request = Request { name: &name, window: &window, table_version: 0, since, until, avoid: &avoid };
    let set = choose(&request, vec![inference_log(&rows)]).await.unwrap();
    assert_eq!(ids(&set), BTreeSet::from(["a", "c"]));
    assert_eq!(reasons(&set), [("b", Exclusion::NearDuplicate), ("d", Exclusion::Contaminated)]);
}
