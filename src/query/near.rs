//! Which known names a wrong one may have meant.

/// How alike two names must be (Jaro-Winkler, 1 is equal) to be suggested. 0.75 finds `promt` for `prompt` and
/// `requestid` for `request_id`, and keeps unrelated columns of `inference_log` apart.
const SIMILARITY_MIN: f64 = 0.75;
/// Suggestions at most: more is a list to read, not a hint.
const SUGGESTIONS_MAX: usize = 3;

/// The known names most like `name`, best first, without regard to case. Empty where none comes close.
#[must_use]
pub fn near_matches<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|candidate| (similarity(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score >= SIMILARITY_MIN)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| name.to_owned()).collect()
}

/// Jaro-Winkler, lifted for a name that is a whole word of the other (`time` in `request_time`), which that measure
/// misses because it favours common beginnings.
fn similarity(wanted: &str, candidate: &str) -> f64 {
    let score = strsim::jaro_winkler(wanted, candidate);
    let is_word = candidate.split('_').any(|word| word == wanted);
    if is_word { score.max(0.9) } else { score }
}

/// ` (did you mean …?)` for an error message; empty where there is nothing to suggest.
pub(super) fn hint(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!("; did you mean {}?", quoted(names, " or ")),
    }
}

/// Names in back-quotes, separated.
pub(super) fn quoted(names: &[String], separator: &str) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(separator)
}
