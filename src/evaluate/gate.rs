//! The gate: which conditions a challenger must meet, each with its figures.

use super::interval_text;
use crate::config;
use crate::domain::{EvalReport, PartGain, Signs};

/// One condition of the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// A short name, such as `gain`.
    pub name: &'static str,
    /// Whether it holds.
    pub held: bool,
    /// The condition as a sentence with its figures, said as it came out.
    pub text: String,
}

/// All conditions, in the order that they are shown in. The verdict is to promote if and only if all hold.
#[must_use]
pub fn conditions(report: &EvalReport, gate: &config::Gate) -> Vec<Condition> {
    let always = [enough_prompts(report, gate), enough_changes(report), sure_gain(report, gate)];
    let guards = [
        like_before(report, gate),
        as_quick(report, gate),
        as_willing(report, gate),
        near_base(report, gate),
        preferred(report, gate),
    ];
    let guards = guards.into_iter().flatten();
    always
        .into_iter()
        .chain(judged(report, gate))
        .chain(uneven(report))
        .chain(guards)
        .chain(report.guards.suites.iter().map(no_regression))
        .collect()
}

/// For yes/no scores: the split of better and worse is no work of chance.
fn uneven(report: &EvalReport) -> Option<Condition> {
    let Signs { gains, losses, chance } = report.guards.signs?;
    let most = 1.0 - report.confidence;
    let (better, rare) = (gains > losses, chance <= most);
    let relation = match (better, rare) {
        (true, true) => format!("at most {most:.3}"),
        (true, false) => format!("not at most {most:.3}"),
        (false, true) => format!("at most {most:.3}, but the split is the wrong way round"),
        (false, false) => format!("not at most {most:.3}, and the split is not the right way round"),
    };
    let text = format!(
        "{gains} prompts are answered well only by the challenger and {losses} only by the champion: \
         McNemar's exact probability, {chance:.3}, is {relation}"
    );
    Some(Condition { name: "signs", held: better && rare, text })
}

fn no_regression(suite: &PartGain) -> Condition {
    let most = suite.regression_max.unwrap_or_default();
    let held = suite.prompts > 0 && suite.gain.mean >= -most;
    let relation = if held { "not below" } else { "below" };
    let text = format!(
        "the gain on the suite `{}`, {} on {} prompts, is {relation} {:+.3}",
        suite.name,
        interval_text(suite.gain),
        suite.prompts,
        -most
    );
    Condition { name: "suite", held, text }
}

fn like_before(report: &EvalReport, gate: &config::Gate) -> Option<Condition> {
    let most = gate.length_ratio_max?;
    let words = report.guards.words;
    let held = words.challenger <= words.champion * most && words.champion <= words.challenger * most;
    let relation = if held { "within" } else { "not within" };
    let text = format!(
        "answers went from {:.1} to {:.1} words, {relation} a factor of {most}",
        words.champion, words.challenger
    );
    Some(Condition { name: "length", held, text })
}

/// All adapters of a base take the same time a token, so that an answer takes the longer the more tokens it has.
fn as_quick(report: &EvalReport, gate: &config::Gate) -> Option<Condition> {
    let most = gate.latency_ratio_max?;
    let tokens = report.guards.tokens;
    let held = tokens.challenger <= tokens.champion * most;
    let relation = if held { "at most" } else { "more than" };
    let text = format!(
        "an answer takes {:.1} tokens instead of {:.1}, {relation} {most} times as long",
        tokens.challenger, tokens.champion
    );
    Some(Condition { name: "latency", held, text })
}

fn as_willing(report: &EvalReport, gate: &config::Gate) -> Option<Condition> {
    let most = gate.refusal_rise_max?;
    let (held, measured) = match report.guards.refusals {
        Some(shares) => (
            shares.challenger - shares.champion <= most,
            format!("{:.1} % instead of {:.1} %", shares.challenger * 100.0, shares.champion * 100.0),
        ),
        None => (false, "not measured".to_owned()),
    };
    let relation = if held { "at most" } else { "more than" };
    let text = format!(
        "the share of answers that refuse or are empty, {measured}, rose by {relation} {} points",
        percent(most)
    );
    Some(Condition { name: "refusals", held, text })
}

fn preferred(report: &EvalReport, gate: &config::Gate) -> Option<Condition> {
    let least = gate.win_rate.as_ref()?.share_min?;
    let (held, measured) = match report.guards.wins {
        Some(wins) => (
            wins.prompts > 0 && wins.share.low > least,
            format!(
                "{:.3} [{:.3}, {:.3}] of {} prompts",
                wins.share.mean, wins.share.low, wins.share.high, wins.prompts
            ),
        ),
        None => (false, "not measured".to_owned()),
    };
    let relation = if held { "above" } else { "not above" };
    let text =
        format!("a judge who sees both answers prefers the challenger's: {measured}, its lower end {relation} {least}");
    Some(Condition { name: "win_rate", held, text })
}

/// Answers that the scorers can say nothing of are no better for it: left out, they would flatter who gives more of them.
fn judged(report: &EvalReport, gate: &config::Gate) -> Option<Condition> {
    let (unjudged, all) = (report.guards.unjudged, report.prompts + report.guards.unjudged);
    if unjudged == 0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "prompts are counted in thousands")]
    let held = unjudged as f64 <= gate.unjudged_share_max * all as f64;
    let relation = if held { "at most" } else { "more than" };
    let most = percent(gate.unjudged_share_max);
    let text = format!("{unjudged} of {all} prompts have no verdict on one of the answers, {relation} {most} %");
    Some(Condition { name: "judged", held, text })
}

fn near_base(report: &EvalReport, gate: &config::Gate) -> Option<Condition> {
    let most = gate.kl_to_base_max?;
    let (held, measured) = match report.guards.kl_to_base {
        Some(kl) => (kl <= most, format!("{kl:.3}")),
        None => (false, "not measured".to_owned()),
    };
    let relation = if held { "at most" } else { "not at most" };
    let text = format!("the distance from the base in nats a token, {measured}, is {relation} {most}");
    Some(Condition { name: "kl_to_base", held, text })
}

fn enough_prompts(report: &EvalReport, gate: &config::Gate) -> Condition {
    let held = report.prompts >= gate.prompts_min;
    let relation = if held { "at least" } else { "fewer than" };
    let text =
        format!("{} holdout prompts were compared, {relation} the {} required", report.prompts, gate.prompts_min);
    Condition { name: "prompts", held, text }
}

fn enough_changes(report: &EvalReport) -> Condition {
    let least = changes_min(report.confidence);
    let held = report.changed >= least;
    let relation = if held { "at least" } else { "fewer than" };
    let text = format!(
        "{} of them earned another reward than before, {relation} the {least} without which nothing is sure",
        report.changed
    );
    Condition { name: "changes", held, text }
}

/// The fewest changed prompts that can be significant: were both models equal, each change would be as likely a loss as a
/// gain, so n of n are gains with the probability 2^-n, which must not exceed the interval's tail (the sign test).
///
/// A bootstrap cannot see this. With 3 gains in 43 prompts nearly every resample has one of them, and the interval's lower
/// end is above zero, although chance gives 3 of 3 once in eight times.
fn changes_min(confidence: f64) -> usize {
    let tail = (1.0 - confidence) / 2.0;
    (1..64).find(|changes| 0.5f64.powi(*changes) <= tail).and_then(|n| usize::try_from(n).ok()).unwrap_or(64)
}

fn sure_gain(report: &EvalReport, gate: &config::Gate) -> Condition {
    // A comparison with a figure that is no number is false, and so the gate refuses.
    let held = report.reward_gain.low > gate.gain_min;
    let relation = if held { "is above" } else { "is not above" };
    let text = format!(
        "the lower end of the {} % interval of the gain in reward, {}, {relation} {:+.3}{}",
        percent(report.confidence),
        interval_text(report.reward_gain),
        gate.gain_min,
        match report.guards.comparison {
            0 | 1 => String::new(),
            k => format!(" (comparison {k} since the last promotion)"),
        }
    );
    Condition { name: "gain", held, text }
}

/// `95`, and `98.75` where more digits matter.
pub(super) fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
