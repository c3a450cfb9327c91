//! Evaluation: the interval is right, the gate is not fooled by chance, and the page is safe to open.

use pelton::config::Gate;
use pelton::domain::{Answer, Comparison, EvalReport, Interval, PromptHash, Sides, Verdict};
use pelton::evaluate::page::{Curve, Page, render};
use pelton::evaluate::{
    Watched, conditions, evaluate, evaluate_watched, paired_interval, report_from_json, report_to_json,
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn gate() -> Gate {
    Gate { resamples: 2000, ..Gate::default() }
}

fn answer(text: &str, reward: f64, correct: Option<bool>) -> Answer {
    Answer { text: text.to_owned(), reward, correct, tokens: 12 }
}

fn comparison(i: usize, champion: f64, challenger: f64) -> Comparison {
    Comparison {
        prompt: PromptHash::of_canonical(&i.to_string()),
        question: format!("question {i}"),
        slice: None,
        champion: answer("before", champion, Some(champion > 0.5)),
        challenger: answer("after", challenger, Some(challenger > 0.5)),
    }
}

fn close(interval: Interval, low: f64, high: f64, tolerance: f64) {
    let near = |a: f64, b: f64| (a - b).abs() <= tolerance;
    assert!(near(interval.low, low) && near(interval.high, high), "{interval:?} is not [{low}, {high}]");
}

#[test]
fn the_interval_of_two_values_is_the_one_worked_by_hand() {
    // Resamples of {-1, 1} have the means -1, 0 and 1 with the probabilities 1/4, 1/2 and 1/4. They are symmetric, so
    // bias and acceleration are 0, and the ends are plain quantiles: the outer means at 95 %, the middle one at 40 %.
    let values = [-1.0, 1.0];
    assert_eq!(paired_interval(&values, 20_000, 0.95, 1), Interval { mean: 0.0, low: -1.0, high: 1.0 });
    assert_eq!(paired_interval(&values, 20_000, 0.40, 1), Interval { mean: 0.0, low: 0.0, high: 0.0 });
}

#[test]
fn the_interval_agrees_with_all_resamples_and_with_scipy() {
    // All 6^6 resamples, enumerated in Python; the means lie on a grid of 1/48, so one step is the tolerance.
    let skewed = [-0.25, 0.0, 0.125, 0.25, 0.5, 1.5];
    close(paired_interval(&skewed, 100_000, 0.8, 3), 0.125, 0.75, 1.01 / 48.0);
    close(paired_interval(&skewed, 100_000, 0.9, 3), 0.0625, 0.875, 1.01 / 48.0);
    // scipy 1.17.1, stats.bootstrap(method="BCa", n_resamples=400000).
    let mut gains = vec![0.0; 24];
    gains.extend([0.1, 0.2, -0.3, 0.5, 1.0, 1.0, -0.2, 0.4, 0.7, 1.0, -1.0, 0.6]);
    let interval = paired_interval(&gains, 100_000, 0.95, 5);
    close(interval, -0.002_777_8, 0.241_666_7, 0.004);
    assert!((interval.mean - 4.0 / 36.0).abs() < 1e-12);
}

#[test]
fn an_interval_without_spread_is_its_value() {
    let zero = Interval { mean: 0.0, low: 0.0, high: 0.0 };
    assert_eq!(paired_interval(&[], 1000, 0.95, 0), zero);
    assert_eq!(paired_interval(&[0.0; 50], 1000, 0.95, 0), zero);
    assert_eq!(paired_interval(&[0.25; 50], 1000, 0.95, 0), Interval { mean: 0.25, low: 0.25, high: 0.25 });
}

#[test]
fn the_interval_covers_the_truth_about_as_often_as_it_says() {
    // Gains as they are: four of five prompts unchanged, the others better or worse; the true mean is 0.05.
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let draw = |random: &mut ChaCha8Rng| match random.random::<f64>() {
        u if u < 0.8 => 0.0,
        u if u < 0.925 => random.random_range(0.0..1.6),
        _ => random.random_range(-1.333_333..0.0),
    };
    let truth = 0.125 * 0.8 - 0.075 * 0.666_666_5;
    let trials = 400;
    let covered = (0..trials).filter(|&trial| {
        let gains: Vec<f64> = (0..80).map(|_| draw(&mut random)).collect();
        let interval = paired_interval(&gains, 500, 0.95, trial);
        interval.low <= truth && truth <= interval.high
    });
    let share = covered.count() as f64 / trials as f64;
    assert!((0.90..=0.985).contains(&share), "{share} of the 95 % intervals hold the truth");
}

#[test]
fn models_of_equal_quality_are_promoted_about_as_rarely_as_chance_allows() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let promoted = (0..300).filter(|&trial| {
        let pairs: Vec<Comparison> = (0..60).map(|i| comparison(i, random.random(), random.random())).collect();
        evaluate(&pairs, &Gate { resamples: 400, ..gate() }, trial).verdict.is_promote()
    });
    // 2.5 % of 300 is 7.5; with 18 the gate would be leaking.
    let promoted = promoted.count();
    assert!((1..=17).contains(&promoted), "{promoted} of 300");
}

#[test]
fn the_gate_promotes_a_sure_gain_and_says_why_it_refuses() {
    let sure: Vec<_> = (0..60).map(|i| comparison(i, 0.4, if i % 3 == 0 { 0.4 } else { 0.9 })).collect();
    let report = evaluate(&sure, &gate(), 1);
    assert_eq!(report.verdict, Verdict::Promote);
    assert!(conditions(&report, &gate()).iter().all(|c| c.held));

    let refused = |pairs: &[Comparison]| match evaluate(pairs, &gate(), 1).verdict {
        Verdict::Reject(why) => why,
        Verdict::Promote => panic!("promoted"),
    };
    // The same models, answer for answer.
    let same: Vec<_> = (0..60).map(|i| comparison(i, 0.4, 0.4)).collect();
    assert_eq!(
        refused(&same),
        [
            "0 of them earned another reward than before, fewer than the 6 without which nothing is sure",
            "the lower end of the 95 % interval of the gain in reward, +0.000 [+0.000, +0.000], is not above +0.000"
        ]
    );
    // Three lucky prompts: the interval alone would let them through.
    let lucky: Vec<_> = (0..43).map(|i| comparison(i, 0.0, if i < 3 { 1.0 } else { 0.0 })).collect();
    assert!(evaluate(&lucky, &gate(), 1).reward_gain.low > 0.0);
    assert_eq!(
        refused(&lucky),
        [
            "3 of them earned another reward than before, fewer than the 6 without which nothing is sure",
            "3 prompts are answered well only by the challenger and 0 only by the champion: McNemar's exact probability, \
             0.250, is not at most 0.050"
        ]
    );
    // A great gain on too few prompts.
    let few: Vec<_> = (0..29).map(|i| comparison(i, 0.0, 1.0)).collect();
    assert_eq!(refused(&few), ["29 holdout prompts were compared, fewer than the 30 required"]);
    assert_eq!(refused(&[]).len(), 3);
    // A scorer that returned no number never promotes.
    let mut broken = sure.clone();
    broken[0].challenger.reward = f64::NAN;
    assert_eq!(refused(&broken).len(), 1);
}

#[test]
fn the_same_seed_gives_the_same_report_and_its_json_comes_back() {
    let pairs: Vec<_> = (0..50).map(|i| comparison(i, 0.1 * (i % 7) as f64, 0.1 * (i % 5) as f64)).collect();
    let report = evaluate(&pairs, &gate(), 9);
    assert_eq!(report, evaluate(&pairs, &gate(), 9));
    assert_eq!(report_from_json(&report_to_json(&report, &gate())), Some(report.clone()));
    assert!(report.champion_accuracy.is_some());
    // With the truth of some prompts only there is no accuracy.
    let mut partly = pairs;
    partly[3].champion.correct = None;
    let report = evaluate(&partly, &gate(), 9);
    assert_eq!((report.champion_accuracy, report.accuracy_gain), (None, None));
    assert_eq!(report_from_json(&report_to_json(&report, &gate())), Some(report));
}

proptest! {
    #[test]
    fn the_interval_is_finite_ordered_and_within_the_data(values in proptest::collection::vec(-1.0f64..1.0, 2..40), seed: u64) {
        let interval = paired_interval(&values, 200, 0.95, seed);
        let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(l, m), v| (l.min(*v), m.max(*v)));
        prop_assert!(interval.low <= interval.high);
        prop_assert!(least - 1e-9 <= interval.low && interval.high <= most + 1e-9);
        prop_assert_eq!(interval, paired_interval(&values, 200, 0.95, seed));
    }
}

fn page_of(comparisons: &[Comparison], report: &EvalReport, hostile: &str) -> String {
    render(&Page {
        version: "support-sql@v3",
        champion: "base",
        report,
        gate: &gate(),
        comparisons,
        curves: &[
            Curve { name: format!("mean reward {hostile}"), points: (0..40).map(|i| (f64::from(i), 0.3)).collect() },
            Curve { name: "loss".to_owned(), points: vec![(0.0, f64::NAN), (1.0, 1.0), (2.0, 0.5)] },
            Curve { name: "empty".to_owned(), points: Vec::new() },
        ],
        lineage: &[("SQL".to_owned(), format!("SELECT '{hostile}'"))],
    })
}

#[test]
fn the_page_shows_the_figures_and_lets_no_answer_be_more_than_text() {
    let hostile = "</pre><script>alert(1)</script><img src=x onerror=\"x\"> \u{202e}desrever\u{1b}[2J & 'q'";
    let mut pairs: Vec<_> = (0..40).map(|i| comparison(i, 0.2, 0.2 + 0.01 * i as f64)).collect();
    for pair in &mut pairs {
        pair.question = format!("{} {hostile}", pair.question);
        pair.champion.text = hostile.to_owned();
        pair.challenger.text = format!("{hostile}{}", "x".repeat(5000));
    }
    let report = evaluate(&pairs, &gate(), 1);
    let page = page_of(&pairs, &report, hostile);
    for needle in [
        "<script",
        "<img",
        "onerror=\"",
        "\u{202e}",
        "\u{1b}",
        "http:",
        "https:",
        "src=\"",
        "href",
        "url(",
        "NaN",
        "inf",
    ] {
        assert!(!page.contains(needle), "{needle:?} is in the page");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("more characters)"));
    let gain = report.reward_gain;
    assert!(page.contains(&format!("{:+.3} <small>{:+.3} to {:+.3}</small>", gain.mean, gain.low, gain.high)));
    assert!(page.contains("support-sql@v3") && page.contains(">promoted<") && page.contains("question 39"));
    // 10 best; none became worse.
    assert_eq!(page.matches("<article>").count(), 10);
    assert!(page.contains("No prompt was answered worse."));
    // Every element that is opened is closed.
    for element in ["section", "article", "pre", "svg", "table", "ul", "dl", "figure", "div", "main"] {
        let opened = page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
}

#[test]
fn a_page_without_prompts_can_be_drawn() {
    let report = evaluate(&[], &gate(), 1);
    let page = page_of(&[], &report, "");
    assert!(page.contains(">not promoted<") && !page.contains("NaN"));
}

/// A clear gain on yes/no scores: 14 better, 2 worse of 60.
fn clear() -> Vec<Comparison> {
    let pair = |i: usize| match i {
        0..14 => (0.0, 1.0),
        14..16 => (1.0, 0.0),
        _ => (0.0, 0.0),
    };
    (0..60).map(|i| comparison(i, pair(i).0, pair(i).1)).collect()
}

#[test]
fn a_gain_that_costs_a_pinned_suite_too_much_is_refused() {
    let mut gate = gate();
    let suite = |margin: f64| toml::from_str(&format!("path = 's.jsonl'\nregression_max = {margin}")).unwrap();
    let pairs: Vec<(f64, f64)> = (0..20).map(|i| (1.0, if i < 2 { 0.0 } else { 1.0 })).collect();
    let watched = Watched { suites: [("old".to_owned(), pairs)].into(), base_reward: Some(0.1), ..Watched::default() };
    for (margin, promoted) in [(0.15, true), (0.05, false)] {
        gate.suites = [("old".to_owned(), suite(margin))].into();
        let report = evaluate_watched(&clear(), &watched, &gate, 1);
        assert_eq!(report.verdict.is_promote(), promoted, "{margin}: {:?}", report.verdict);
        assert_eq!(report_from_json(&report_to_json(&report, &gate)), Some(report));
    }
}

#[test]
fn yes_no_scores_are_tested_by_mcnemar_too() {
    let report = evaluate(&clear(), &gate(), 1);
    let signs = report.guards.signs.unwrap();
    assert_eq!((signs.gains, signs.losses), (14, 2));
    assert!((signs.chance - 0.004_180_908).abs() < 1e-8, "{signs:?}");
    assert!(report.verdict.is_promote());
    let graded: Vec<Comparison> = (0..60).map(|i| comparison(i, 0.25, 0.5)).collect();
    assert_eq!(evaluate(&graded, &gate(), 1).guards.signs, None);
}

#[test]
fn each_comparison_since_the_last_promotion_has_to_be_surer() {
    let at = |comparison| evaluate_watched(&clear(), &Watched { comparison, ..Watched::default() }, &gate(), 1);
    assert_eq!(at(1).confidence, 0.95);
    assert!((at(2).confidence - 0.9875).abs() < 1e-12);
    assert!(at(1).verdict.is_promote() && !at(12).verdict.is_promote());
    let plain = Gate { multiple_testing: false, ..gate() };
    let twelfth = evaluate_watched(&clear(), &Watched { comparison: 12, ..Watched::default() }, &plain, 1);
    assert!(twelfth.verdict.is_promote());
}

#[test]
fn each_guard_that_is_asked_for_refuses_a_clear_gain() {
    let long = |mut c: Comparison| {
        c.challenger.tokens = 30;
        c
    };
    let slow: Vec<Comparison> = clear().into_iter().map(long).collect();
    let refused = |comparisons: &[Comparison], watched: &Watched, gate: &Gate| {
        let report = evaluate_watched(comparisons, watched, gate, 1);
        assert_eq!(report_from_json(&report_to_json(&report, gate)).as_ref(), Some(&report));
        let page = page_of(comparisons, &report, "");
        assert!(!page.contains("NaN"));
        let held = |name: &str| conditions(&report, gate).iter().find(|c| c.name == name).map(|c| c.held);
        (report.verdict.is_promote(), ["latency", "refusals", "judged", "win_rate"].map(held))
    };
    let none = Watched::default();
    let quick = Gate { latency_ratio_max: Some(2.0), ..gate() };
    assert_eq!(refused(&clear(), &none, &quick), (true, [Some(true), None, None, None]));
    assert_eq!(refused(&slow, &none, &quick), (false, [Some(false), None, None, None]));

    let willing = Gate { refusal_rise_max: Some(0.05), ..gate() };
    let refusals = |challenger| Some(Sides { champion: 0.1, challenger });
    let at = |challenger| Watched { refusals: refusals(challenger), ..Watched::default() };
    assert_eq!(refused(&clear(), &at(0.14), &willing), (true, [None, Some(true), None, None]));
    assert_eq!(refused(&clear(), &at(0.3), &willing), (false, [None, Some(false), None, None]));
    assert!(!refused(&clear(), &none, &willing).0, "what is not measured is not held");
    let warned = evaluate_watched(&clear(), &at(0.3), &gate(), 1).guards.warnings;
    assert!(warned.iter().any(|w| w.contains("refuse")), "{warned:?}");

    // A challenger that gives many answers of which nothing can be said is not compared on the rest alone.
    let silent = |unjudged| Watched { unjudged, ..Watched::default() };
    assert_eq!(refused(&clear(), &silent(15), &gate()), (true, [None, None, Some(true), None]));
    assert_eq!(refused(&clear(), &silent(16), &gate()), (false, [None, None, Some(false), None]));

    let judge = "judge = { rubric = 'good', model = 'm' }\nshare_min = 0.5";
    let preferred = Gate { win_rate: Some(toml::from_str(judge).unwrap()), ..gate() };
    let won = |wins: usize| {
        let each = (0..40).map(|i| if i < 4 { None } else { Some(f64::from(u8::from(i < 4 + wins))) });
        Watched { wins: Some(each.collect()), ..Watched::default() }
    };
    assert_eq!(refused(&clear(), &won(30), &preferred), (true, [None, None, None, Some(true)]));
    assert_eq!(refused(&clear(), &won(20), &preferred), (false, [None, None, None, Some(false)]));
    let wins = evaluate_watched(&clear(), &won(27), &preferred, 1).guards.wins.unwrap();
    assert_eq!((wins.prompts, wins.share.mean), (36, 0.75));
}

#[test]
fn each_slice_has_its_own_gain_and_one_that_falls_is_named() {
    let sliced = |(i, mut c): (usize, Comparison)| {
        let falls = i % 3 == 0;
        c.slice = (i % 5 != 4).then(|| if falls { "refunds" } else { "<orders>" }.to_owned());
        (c.champion.reward, c.challenger.reward) = if falls { (1.0, 0.25) } else { (0.0, 1.0) };
        c
    };
    let comparisons: Vec<Comparison> = clear().into_iter().enumerate().map(sliced).collect();
    let report = evaluate(&comparisons, &gate(), 1);
    let slices: Vec<_> = report.guards.slices.iter().map(|s| (s.name.as_str(), s.prompts, s.gain.mean)).collect();
    assert_eq!(slices, [("<orders>", 32, 1.0), ("refunds", 16, -0.75)]);
    assert!(report.guards.warnings.iter().any(|w| w.contains("`refunds` is answered worse")), "{report:?}");
    assert_eq!(report_from_json(&report_to_json(&report, &gate())).as_ref(), Some(&report));
    let page = page_of(&comparisons, &report, "");
    assert!(page.contains("Slice by slice") && page.contains("&lt;orders&gt;"), "escaped as all that strangers write");
}
