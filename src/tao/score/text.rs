//! Words, numbers, names and sentences of a text, as scorers by rule see them.

use std::collections::{BTreeSet, HashSet};

/// Words that say nothing about what a sentence is about.
const FILLERS: &[&str] = &[
    "a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "been", "before", "both", "but",
    "by", "can", "could", "did", "do", "does", "during", "each", "for", "from", "had", "has", "have", "he", "her",
    "his", "how", "i", "if", "in", "into", "is", "it", "its", "many", "may", "more", "most", "much", "no", "not", "of",
    "on", "one", "only", "or", "other", "our", "out", "over", "she", "so", "some", "such", "than", "that", "the",
    "their", "them", "then", "there", "these", "they", "this", "those", "to", "under", "until", "up", "was", "we",
    "were", "what", "when", "where", "which", "while", "who", "whom", "whose", "why", "will", "with", "would", "you",
    "your",
];

/// Lower-case runs of letters and digits; a number keeps its point and loses its commas (`1,234.5` is one word).
pub(super) fn words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let digit = |i: usize| chars.get(i).is_some_and(char::is_ascii_digit);
    let (mut words, mut word) = (Vec::new(), String::new());
    for (i, &c) in chars.iter().enumerate() {
        let inside_number = i > 0 && digit(i - 1) && digit(i + 1);
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        } else if c == '.' && inside_number {
            word.push('.');
        } else if matches!(c, '\'' | '’') || c == ',' && inside_number {
            // Neither parts a word.
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Whether a word carries meaning.
pub(super) fn is_content(word: &str) -> bool {
    FILLERS.binary_search(&word).is_err()
}

/// A word without the endings that make `opened`, `opens` and `opening` look different; crude, and the same everywhere.
pub(super) fn stem(word: &str) -> String {
    if word.len() < 5 || word.bytes().any(|b| b.is_ascii_digit()) {
        return word.to_owned();
    }
    for ending in ["ings", "ing", "edly", "ed", "ies", "es", "ly", "s", "e"] {
        if let Some(stem) = word.strip_suffix(ending).filter(|s| s.chars().count() >= 3) {
            return stem.to_owned();
        }
    }
    word.to_owned()
}

/// The stems of a text's words that carry meaning.
pub(super) fn stems(text: &str) -> BTreeSet<String> {
    words(text).iter().filter(|w| is_content(w)).map(|w| stem(w)).collect()
}

/// Words that begin with a digit.
pub(super) fn numbers(text: &str) -> BTreeSet<String> {
    words(text).into_iter().filter(|w| w.starts_with(|c: char| c.is_ascii_digit())).collect()
}

/// Words written with a capital letter where no sentence begins, lower case.
pub(super) fn names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut begins = true;
    for token in text.split_whitespace() {
        let word = token.trim_matches(|c: char| !c.is_alphanumeric());
        if !begins && word.chars().next().is_some_and(char::is_uppercase) {
            names.extend(words(word));
        }
        begins = token.ends_with(['.', '!', '?', ':', '"', '”']);
    }
    names
}

/// What stands between quotation marks.
pub(super) fn quotations(text: &str) -> Vec<String> {
    let plain = text.replace(['“', '”', '„'], "\"");
    plain.split('"').skip(1).step_by(2).map(|q| words(q).join(" ")).filter(|q| !q.is_empty()).collect()
}

/// The sentences of a text.
pub(super) fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut from = 0;
    let bytes = text.as_bytes();
    for (at, c) in text.char_indices() {
        let ends =
            matches!(c, '\n') || matches!(c, '.' | '!' | '?') && bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace);
        if ends {
            sentences.push(text[from..at + c.len_utf8()].trim());
            from = at + c.len_utf8();
        }
    }
    sentences.push(text[from..].trim());
    sentences.retain(|s| !s.is_empty());
    sentences
}

/// How much two texts' words have in common: shared over all distinct ones.
#[expect(clippy::cast_precision_loss, reason = "a text has few words")]
pub(super) fn similarity(a: &str, b: &str) -> f64 {
    let (a, b): (HashSet<_>, HashSet<_>) = (words(a).into_iter().collect(), words(b).into_iter().collect());
    let all = a.union(&b).count();
    if all == 0 { 1.0 } else { a.intersection(&b).count() as f64 / all as f64 }
}

/// A fenced block's content where there is one, else the text, trimmed.
pub(super) fn unfenced(text: &str) -> &str {
    let block = text.split_once("```").and_then(|(_, rest)| rest.split_once("```")).map(|(block, _)| block);
    let inner = block.map(|b| {
        b.split_once('\n').filter(|(head, _)| !head.trim().contains([' ', '{', '['])).map_or(b, |(_, rest)| rest)
    });
    inner.unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fall_apart_as_a_reader_would_have_it() {
        assert!(FILLERS.is_sorted(), "the list is searched by halves");
        assert_eq!(words("It costs 1,234.50 €, isn't it?"), ["it", "costs", "1234.50", "isnt", "it"]);
        assert_eq!(sentences("One. Two is 2.5 m! Three"), ["One.", "Two is 2.5 m!", "Three"]);
        assert_eq!(names("In May the ship Aurora left. She sank.").into_iter().collect::<Vec<_>>(), ["aurora", "may"]);
        assert_eq!(quotations("He said “Go now” and \"stay\"."), ["go now", "stay"]);
        assert_eq!(unfenced("Here:\n```json\n{\"a\": 1}\n```"), "{\"a\": 1}");
        assert_eq!(unfenced("  {\"a\": 1} "), "{\"a\": 1}");
        assert_eq!(stem("opened"), stem("opens"));
        assert!((similarity("a b c", "b c d") - 0.5).abs() < 1e-12);
    }
}
