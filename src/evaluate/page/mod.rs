//! `report.html`: one page that says by how much the challenger is better, and lets the reader judge by examples.
//!
//! Self-contained: no script, no font, no image and no link from elsewhere, and a content security policy that forbids
//! them, because prompts and answers are written by strangers. Every text is escaped and stripped of control characters.

mod charts;
mod html;

use super::gate::{Condition, conditions, percent};
use super::interval_text;
use crate::config;
use crate::domain::{Answer, Comparison, EvalReport, PartGain, Sides};
use html::{escape, shown};

/// Examples that are shown of each kind.
const EXAMPLES_MAX: usize = 10;
/// Characters of a question or an answer that are shown.
const TEXT_CHARS_MAX: usize = 2000;

/// A series of training: one chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What it is, such as `mean reward`.
    pub name: String,
    /// Its value at each step, `(step, value)`, ascending.
    pub points: Vec<(f64, f64)>,
}

/// Everything that the page shows.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The version, such as `support-sql@v3`.
    pub version: &'a str,
    /// What it is compared with, such as `support-sql@v2` or `base`.
    pub champion: &'a str,
    /// The figures.
    pub report: &'a EvalReport,
    /// The gate that judged.
    pub gate: &'a config::Gate,
    /// Both answers to each prompt.
    pub comparisons: &'a [Comparison],
    /// Training, over its steps.
    pub curves: &'a [Curve],
    /// Where the version came from, as name and value.
    pub lineage: &'a [(String, String)],
}

/// The page as HTML.
#[must_use]
pub fn render(page: &Page<'_>) -> String {
    let sections = [
        headline(page),
        verdict(page),
        warnings(page),
        scores(page),
        slices(page),
        distributions(page),
        curves(page),
        examples(page),
        lineage(page),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{version} against {champion}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        version = escape(page.version),
        champion = escape(page.champion),
        style = include_str!("style.css"),
        body = sections.join("\n"),
    )
}

fn headline(page: &Page<'_>) -> String {
    let report = page.report;
    let promoted = report.verdict.is_promote();
    let (class, word) = if promoted { ("good", "promoted") } else { ("bad", "not promoted") };
    let figure = headline_figure(report);
    format!(
        "<header><p class=\"eyebrow\">Pelton · evaluation on {} holdout prompts</p>\
         <h1>{} <span class=\"against\">against {}</span></h1></header>\n\
         <section class=\"hero\"><div><p class=\"badge {class}\">{word}</p><p class=\"figure\">{figure}</p>\
         <p class=\"muted\">gain in mean reward, with its {} % interval</p></div>{}</section>",
        report.prompts,
        escape(page.version),
        escape(page.champion),
        percent(report.confidence),
        charts::interval(report.reward_gain, page.gate.gain_min),
    )
}

fn headline_figure(report: &EvalReport) -> String {
    let gain = report.reward_gain;
    format!("{:+.3} <small>{:+.3} to {:+.3}</small>", gain.mean, gain.low, gain.high)
}

fn verdict(page: &Page<'_>) -> String {
    let item = |c: &Condition| {
        let (class, mark) = if c.held { ("good", "✓") } else { ("bad", "✗") };
        format!("<li><span class=\"mark {class}\">{mark}</span>{}</li>", escape(&c.text))
    };
    let items: Vec<String> = conditions(page.report, page.gate).iter().map(item).collect();
    format!("<section><h2>The gate</h2><ul class=\"conditions\">{}</ul></section>", items.concat())
}

fn warnings(page: &Page<'_>) -> String {
    let item = |text: &String| format!("<li><span class=\"mark bad\">!</span>{}</li>", escape(text));
    let items: Vec<String> = page.report.guards.warnings.iter().map(item).collect();
    if items.is_empty() {
        return String::new();
    }
    format!("<section><h2>To look at</h2><ul class=\"conditions\">{}</ul></section>", items.concat())
}

fn scores(page: &Page<'_>) -> String {
    let report = page.report;
    let row = |name: &str, champion: String, challenger: String, gain: String| {
        format!("<tr><th scope=\"row\">{name}</th><td>{champion}</td><td>{challenger}</td><td>{gain}</td></tr>")
    };
    let mut rows = row(
        "Mean reward",
        format!("{:.3}", report.champion_reward),
        format!("{:.3}", report.challenger_reward),
        interval_text(report.reward_gain),
    );
    if let (Some(champion), Some(challenger), Some(gain)) =
        (report.champion_accuracy, report.challenger_accuracy, report.accuracy_gain)
    {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        rows += &row("Accuracy, where the truth is known", percent(champion), percent(challenger), interval_text(gain));
    }
    if let Some(base) = report.guards.base_reward {
        rows += &row("Mean reward of the base alone", format!("{base:.3}"), "–".to_owned(), "–".to_owned());
    }
    for suite in &report.guards.suites {
        let base = suite.base.map_or_else(String::new, |base| format!("; the base alone {base:.3}"));
        let name = format!("Suite {} ({} prompts{base})", escape(&suite.name), suite.prompts);
        let side = |reward: f64| format!("{reward:.3}");
        rows += &row(&name, side(suite.reward.champion), side(suite.reward.challenger), interval_text(suite.gain));
    }
    if let Some(gain) = report.guards.training_gain {
        rows += &row("Mean reward by the training's scorers", "–".to_owned(), "–".to_owned(), interval_text(gain));
    }
    if let Some(wins) = report.guards.wins {
        let share = format!("{:.3} [{:.3}, {:.3}]", wins.share.mean, wins.share.low, wins.share.high);
        let name = format!("Preferred by the judge who sees both ({} prompts)", wins.prompts);
        rows += &row(&name, format!("{:.3}", 1.0 - wins.share.mean), share, "–".to_owned());
    }
    let Sides { champion: before, challenger: after } = report.guards.tokens;
    rows += &row("Tokens an answer", format!("{before:.1}"), format!("{after:.1}"), format!("{:+.1}", after - before));
    let shares = [
        ("Share of prompts given one answer", Some(report.guards.constant_share)),
        ("Share of an answer that repeats itself", Some(report.guards.repetition)),
        ("Share of answers that refuse or are empty", report.guards.refusals),
    ];
    for (name, sides) in shares.into_iter().filter_map(|(name, sides)| Some((name, sides?))) {
        let change = format!("{:+.3}", sides.challenger - sides.champion);
        rows += &row(name, format!("{:.3}", sides.champion), format!("{:.3}", sides.challenger), change);
    }
    if let Some(kl) = report.guards.kl_to_base {
        rows += &row("KL to the base, nats a token", "–".to_owned(), format!("{kl:.3}"), "–".to_owned());
    }
    format!(
        "<section><h2>Before and after</h2><div class=\"scroll\"><table><thead><tr><td></td><th scope=\"col\">{}</th>\
         <th scope=\"col\">{}</th><th scope=\"col\">Gain</th></tr></thead><tbody>{rows}</tbody></table></div></section>",
        escape(page.champion),
        escape(page.version),
    )
}

/// The gain on each slice of the traffic, where the window has strata.
fn slices(page: &Page<'_>) -> String {
    let row = |slice: &PartGain| {
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{}</td></tr>",
            escape(&slice.name),
            slice.prompts,
            slice.reward.champion,
            slice.reward.challenger,
            interval_text(slice.gain),
        )
    };
    let rows: Vec<String> = page.report.guards.slices.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<section><h2>Slice by slice</h2><div class=\"scroll\"><table><thead><tr><td></td><th scope=\"col\">Prompts</th>\
         <th scope=\"col\">{}</th><th scope=\"col\">{}</th><th scope=\"col\">Gain</th></tr></thead><tbody>{}</tbody></table></div></section>",
        escape(page.champion),
        escape(page.version),
        rows.concat(),
    )
}

fn distributions(page: &Page<'_>) -> String {
    if page.comparisons.is_empty() {
        return String::new();
    }
    let champion: Vec<f64> = page.comparisons.iter().map(|c| c.champion.reward).collect();
    let challenger: Vec<f64> = page.comparisons.iter().map(|c| c.challenger.reward).collect();
    let gains: Vec<f64> = page.comparisons.iter().map(gain).collect();
    let better = gains.iter().filter(|g| **g > 0.0).count();
    let worse = gains.iter().filter(|g| **g < 0.0).count();
    format!(
        "<section><h2>Rewards over the prompts</h2>\
         <p class=\"legend\"><span class=\"key before\"></span>{} <span class=\"key after\"></span>{}</p>{}\
         <p class=\"muted\">{better} prompts answered better, {worse} worse, {} the same.</p>{}</section>",
        escape(page.champion),
        escape(page.version),
        charts::histogram(&champion, &challenger),
        gains.len() - better - worse,
        charts::balance(better, gains.len() - better - worse, worse),
    )
}

fn curves(page: &Page<'_>) -> String {
    let drawn: Vec<String> = page
        .curves
        .iter()
        .filter(|c| c.points.len() > 1)
        .map(|c| format!("<figure><figcaption>{}</figcaption>{}</figure>", escape(&c.name), charts::line(&c.points)))
        .collect();
    if drawn.is_empty() {
        return String::new();
    }
    format!("<section><h2>Training, by step</h2><div class=\"grid\">{}</div></section>", drawn.concat())
}

fn examples(page: &Page<'_>) -> String {
    let mut order: Vec<&Comparison> = page.comparisons.iter().collect();
    // The hash breaks ties, so that the same evaluation gives the same page.
    order.sort_by(|a, b| gain(b).total_cmp(&gain(a)).then(a.prompt.cmp(&b.prompt)));
    let best: Vec<&Comparison> = order.iter().copied().filter(|c| gain(c) > 0.0).take(EXAMPLES_MAX).collect();
    let worst: Vec<&Comparison> = order.iter().rev().copied().filter(|c| gain(c) < 0.0).take(EXAMPLES_MAX).collect();
    let group = |title: &str, none: &str, list: &[&Comparison]| {
        let cards: Vec<String> = list.iter().map(|c| example(page, c)).collect();
        let body = if cards.is_empty() { format!("<p class=\"muted\">{none}</p>") } else { cards.concat() };
        format!("<h3>{title}</h3>{body}")
    };
    format!(
        "<section><h2>Examples</h2>{}{}</section>",
        group("Most improved", "No prompt was answered better.", &best),
        group("Most worsened", "No prompt was answered worse.", &worst),
    )
}

fn example(page: &Page<'_>, comparison: &Comparison) -> String {
    let side = |name: &str, class: &str, answer: &Answer| {
        let truth = match answer.correct {
            Some(true) => " <span class=\"mark good\">✓ right</span>",
            Some(false) => " <span class=\"mark bad\">✗ wrong</span>",
            None => "",
        };
        format!(
            "<div class=\"answer\"><p><span class=\"key {class}\"></span>{} · reward {:.3}{truth}</p><pre>{}</pre></div>",
            escape(name),
            answer.reward,
            shown(&answer.text, TEXT_CHARS_MAX),
        )
    };
    format!(
        "<article><p class=\"question\">{}<span class=\"delta\">{:+.3}</span></p><div class=\"pair\">{}{}</div></article>",
        shown(&comparison.question, TEXT_CHARS_MAX),
        gain(comparison),
        side(page.champion, "before", &comparison.champion),
        side(page.version, "after", &comparison.challenger),
    )
}

fn lineage(page: &Page<'_>) -> String {
    if page.lineage.is_empty() {
        return String::new();
    }
    let row = |(name, value): &(String, String)| {
        format!("<dt>{}</dt><dd><code>{}</code></dd>", escape(name), shown(value, TEXT_CHARS_MAX))
    };
    let rows: Vec<String> = page.lineage.iter().map(row).collect();
    format!("<section><h2>Where it came from</h2><dl>{}</dl></section>", rows.concat())
}

fn gain(comparison: &Comparison) -> f64 {
    comparison.challenger.reward - comparison.champion.reward
}
