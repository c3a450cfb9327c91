//! Inline SVG: an interval on its line, two histograms, a balance of better and worse, a curve.
//!
//! Colours come from the page's style sheet by class, so that one drawing serves light and dark. Every mark carries its
//! figures as a `<title>`, which browsers show on hover and screen readers read.

use crate::domain::Interval;
use std::fmt::Write;

/// Bars of the histogram.
const BINS: usize = 20;
/// Steps over which the drawn curve is smoothed, as a share of all; the raw curve stays behind it.
const SMOOTHING_SHARE: f64 = 0.05;

/// A linear map from data to drawing.
#[derive(Clone, Copy)]
struct Scale {
    from: (f64, f64),
    to: (f64, f64),
}

impl Scale {
    fn at(self, value: f64) -> f64 {
        let span = self.from.1 - self.from.0;
        let share = if span == 0.0 { 0.5 } else { (value - self.from.0) / span };
        self.to.0 + share * (self.to.1 - self.to.0)
    }
}

/// Round values that cover a range, about five of them, each with its label.
fn ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let span = high - low;
    if !(span.is_finite() && span > 0.0) {
        return vec![(low, number(low))];
    }
    let power = 10f64.powf((span / 5.0).log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| span / s <= 5.0).unwrap_or(span);
    let first = (low / step).ceil();
    let values = (0..12).map(|i| (first + f64::from(i)) * step).take_while(|t| *t <= high + step * 1e-9);
    // Adding 0 turns -0 into 0.
    values.map(|t| t + 0.0).map(|t| (t, tick_label(t, step))).collect()
}

/// As many decimals as tell two neighbours apart, no more.
fn tick_label(value: f64, step: f64) -> String {
    let exact = |decimals: &usize| {
        let scaled = step * 10f64.powi(i32::try_from(*decimals).unwrap_or(0));
        (scaled - scaled.round()).abs() < 1e-6 * scaled
    };
    match (0..6).find(exact) {
        Some(decimals) => format!("{value:.decimals$}"),
        None => format!("{value:.1e}"),
    }
}

fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.3}"),
        _ => return format!("{value:.1e}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn svg(width: f64, height: f64, label: &str, body: &str) -> String {
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">{body}</svg>")
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes any text");
}

/// The gain's interval on a line with zero and the gate's threshold.
pub(super) fn interval(interval: Interval, threshold: f64) -> String {
    const WIDTH: f64 = 480.0;
    let ends = [interval.low, interval.high, threshold, 0.0];
    let low = ends.into_iter().fold(f64::INFINITY, f64::min);
    let high = ends.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let margin = (high - low).max(1e-6) * 0.15;
    let x = Scale { from: (low - margin, high + margin), to: (10.0, WIDTH - 10.0) };
    let mut body = format!("<line class=\"axis\" x1=\"10\" x2=\"{}\" y1=\"66\" y2=\"66\"/>", WIDTH - 10.0);
    for (tick, label) in ticks(x.from.0, x.from.1) {
        let at = x.at(tick);
        push(&mut body, format_args!("<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"62\" y2=\"66\"/>"));
        push(&mut body, format_args!("<text x=\"{at:.1}\" y=\"82\" text-anchor=\"middle\">{label}</text>"));
    }
    let gate = x.at(threshold);
    push(&mut body, format_args!("<line class=\"zero\" x1=\"{gate:.1}\" x2=\"{gate:.1}\" y1=\"16\" y2=\"66\"/>"));
    push(&mut body, format_args!("<text x=\"{gate:.1}\" y=\"10\" text-anchor=\"middle\">the gate</text>"));
    let (from, to, mean) = (x.at(interval.low), x.at(interval.high), x.at(interval.mean));
    push(
        &mut body,
        format_args!(
            "<g><title>{}</title><line class=\"bar\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"40\" y2=\"40\"/>\
             <circle class=\"after\" cx=\"{mean:.1}\" cy=\"40\" r=\"7\"/></g>",
            super::interval_text(interval)
        ),
    );
    svg(WIDTH, 90.0, "the gain and its interval", &body)
}

/// Rewards of both sides as bars beside each other.
pub(super) fn histogram(before: &[f64], after: &[f64]) -> String {
    const WIDTH: f64 = 880.0;
    const HEIGHT: f64 = 220.0;
    let all = || before.iter().chain(after).copied().filter(|v| v.is_finite());
    let low = all().fold(0.0, f64::min);
    let high = all().fold(1.0, f64::max);
    let x = Scale { from: (low, high), to: (36.0, WIDTH - 8.0) };
    let bins = [bins(before, low, high), bins(after, low, high)];
    let most = bins.iter().flatten().copied().max().unwrap_or(1).max(1);
    let y = Scale { from: (0.0, f64::from(most)), to: (HEIGHT - 24.0, 14.0) };
    let mut body = horizontal_axis(x, HEIGHT - 24.0);
    body += &vertical_labels(y, 32.0, WIDTH - 8.0);
    let slot = (x.to.1 - x.to.0) / BINS as f64;
    for (side, class) in [(0, "before"), (1, "after")] {
        for (bin, &count) in bins[side].iter().enumerate().filter(|(_, count)| **count > 0) {
            let left = x.to.0 + slot * bin as f64 + 2.0 + side as f64 * (slot / 2.0 - 1.0);
            let top = y.at(f64::from(count));
            push(
                &mut body,
                format_args!(
                    "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\">\
                     <title>{count} prompts, reward {} to {}</title></rect>",
                    slot / 2.0 - 3.0,
                    y.at(0.0) - top,
                    number(low + (high - low) * bin as f64 / BINS as f64),
                    number(low + (high - low) * (bin + 1) as f64 / BINS as f64),
                ),
            );
        }
    }
    svg(WIDTH, HEIGHT, "how many prompts earned which reward", &body)
}

fn bins(values: &[f64], low: f64, high: f64) -> [u32; BINS] {
    let mut bins = [0; BINS];
    for value in values.iter().filter(|v| v.is_finite()) {
        let share = (value - low) / (high - low);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share in [0, 1] of 20 bins")]
        let bin = ((share * BINS as f64) as usize).min(BINS - 1);
        bins[bin] += 1;
    }
    bins
}

/// One bar in three parts.
pub(super) fn balance(better: usize, same: usize, worse: usize) -> String {
    const WIDTH: f64 = 880.0;
    let total = (better + same + worse).max(1) as f64;
    let mut left = 0.0;
    let mut body = String::new();
    for (count, class, word) in [(better, "good", "better"), (same, "same", "the same"), (worse, "bad", "worse")] {
        let width = WIDTH * count as f64 / total;
        if count > 0 {
            push(
                &mut body,
                format_args!(
                    "<rect class=\"{class}\" x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"14\" rx=\"3\">\
                     <title>{count} {word}</title></rect>",
                    (width - 2.0).max(1.0)
                ),
            );
        }
        left += width;
    }
    svg(WIDTH, 14.0, "prompts answered better, the same and worse", &body)
}

/// A curve over steps: the raw values faint, their running mean strong.
pub(super) fn line(points: &[(f64, f64)]) -> String {
    const WIDTH: f64 = 400.0;
    const HEIGHT: f64 = 190.0;
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|(s, v)| s.is_finite() && v.is_finite()).collect();
    let Some((first, last)) = points.first().zip(points.last()) else {
        return svg(WIDTH, HEIGHT, "no values", "");
    };
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low < high { (low, high) } else { (low - 0.5, high + 0.5) };
    let x = Scale { from: (first.0, last.0), to: (44.0, WIDTH - 8.0) };
    let y = Scale { from: (low, high), to: (HEIGHT - 24.0, 10.0) };
    let mut body = horizontal_axis(x, HEIGHT - 24.0);
    body += &vertical_labels(y, 40.0, WIDTH - 8.0);
    push(&mut body, format_args!("<path class=\"faint\" d=\"{}\"/>", path(&points, x, y)));
    push(&mut body, format_args!("<path class=\"stroke\" d=\"{}\"/>", path(&smooth(&points), x, y)));
    push(
        &mut body,
        format_args!(
            "<circle class=\"after\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>step {}: {}</title></circle>",
            x.at(last.0),
            y.at(last.1),
            number(last.0),
            number(last.1)
        ),
    );
    svg(WIDTH, HEIGHT, "a value of training over its steps", &body)
}

fn path(points: &[(f64, f64)], x: Scale, y: Scale) -> String {
    let mut path = String::new();
    for (i, (step, value)) in points.iter().enumerate() {
        let verb = if i == 0 { 'M' } else { 'L' };
        push(&mut path, format_args!("{verb}{:.1} {:.1}", x.at(*step), y.at(*value)));
    }
    path
}

/// The mean over a window around each point.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small share of a length")]
    let reach = (points.len() as f64 * SMOOTHING_SHARE).round() as usize;
    let mean = |i: usize| {
        let around = &points[i.saturating_sub(reach)..(i + reach + 1).min(points.len())];
        around.iter().map(|p| p.1).sum::<f64>() / around.len() as f64
    };
    (0..points.len()).map(|i| (points[i].0, mean(i))).collect()
}

fn horizontal_axis(x: Scale, y: f64) -> String {
    let mut out = format!("<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/>", x.to.0, x.to.1);
    for (tick, label) in ticks(x.from.0, x.from.1) {
        push(
            &mut out,
            format_args!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                x.at(tick).clamp(x.to.0 + 6.0, x.to.1 - 8.0),
                y + 16.0,
                label
            ),
        );
    }
    out
}

fn vertical_labels(y: Scale, right: f64, to: f64) -> String {
    let mut out = String::new();
    for (tick, label) in ticks(y.from.0, y.from.1) {
        let at = y.at(tick);
        push(
            &mut out,
            format_args!("<line class=\"axis\" x1=\"{}\" x2=\"{to}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", right + 4.0),
        );
        push(&mut out, format_args!("<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", at + 4.0, label));
    }
    out
}
