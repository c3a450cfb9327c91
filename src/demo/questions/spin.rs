//! Varied English from templates: `{a|b}` chooses, `[a]` may be left out, `@word` is a synonym, `$slot` is a value.
//!
//! Promises that the same generator state gives the same text. Never invents a value: a `$slot` that nobody filled is
//! a mistake in a template and panics, and a test expands every template.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Words that people use for one another; the first is the schema's own and comes up most.
const SYNONYMS: &[(&str, &str)] = &[
    ("customers", "{customers|customers|customers|clients|buyers|shoppers}"),
    ("customer", "{customer|customer|client|buyer}"),
    ("products", "{products|products|products|articles|items|goods}"),
    ("product", "{product|product|article|item}"),
    ("suppliers", "{suppliers|suppliers|vendors}"),
    ("supplier", "{supplier|supplier|vendor}"),
    ("orders", "{orders|orders|orders|purchases}"),
    ("order", "{order|order|purchase}"),
    ("employees", "{employees|employees|employees|staff members|workers|colleagues}"),
    ("employee", "{employee|employee|worker|colleague}"),
    ("many", "{How many|How many|What number of|Count how many|Tell me how many}"),
    ("count", "{Count|Count up|Give me the number of|What is the number of|Tell me the number of}"),
    ("list", "{List|Show|Show me|Give me|Find|Name|I need|Print}"),
    ("what", "{What is|What is|Tell me|Show me|Give me|I want to know|Look up}"),
    ("which", "{Which|Which|What|Tell me which}"),
    ("who", "{Who|Which person|Tell me who}"),
    ("average", "{average|average|mean|typical}"),
    ("total", "{total|total|overall|combined}"),
    ("most", "{most|most|largest number of|greatest number of}"),
    ("highest", "{highest|highest|largest|top}"),
    ("lowest", "{lowest|lowest|smallest}"),
    ("expensive", "{most expensive|priciest|costliest|dearest}"),
    ("cheap", "{cheapest|least expensive|lowest priced}"),
    ("over", "{over|above|more than|higher than|greater than}"),
    ("under", "{under|below|less than|lower than}"),
    ("after", "{after|later than}"),
    ("before", "{before|earlier than}"),
    ("each", "{each|every}"),
    ("per", "{per|for each|for every|by}"),
    ("placed", "{placed|made}"),
    ("live", "{live in|come from|are based in|are from}"),
];

/// Expands one template.
///
/// # Panics
/// Where a bracket is open, a synonym unknown or a slot unfilled: templates are constants, and a test expands each.
pub(super) fn spin(template: &str, rng: &mut ChaCha8Rng, slot: &dyn Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '[', '@', '$']) {
        out.push_str(&rest[..at]);
        let (head, tail) = rest[at..].split_at(1);
        rest = match head {
            "{" => {
                let (inner, after) = bracketed(tail, '{', '}');
                let options = alternatives(inner);
                out.push_str(&spin(options[rng.random_range(0..options.len())], rng, slot));
                after
            }
            "[" => {
                let (inner, after) = bracketed(tail, '[', ']');
                if rng.random_bool(0.5) {
                    out.push_str(&spin(inner, rng, slot));
                }
                after
            }
            "@" => {
                let (word, after) = name(tail);
                let found = SYNONYMS.iter().find(|(key, _)| *key == word);
                out.push_str(&spin(found.expect("every synonym of a template is listed").1, rng, slot));
                after
            }
            _ => {
                let (word, after) = name(tail);
                out.push_str(&slot(word));
                after
            }
        };
    }
    out.push_str(rest);
    out
}

/// The leading identifier and what follows it.
fn name(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(text.len()))
}

/// What stands before the bracket that closes, and what follows it.
fn bracketed(text: &str, open: char, close: char) -> (&str, &str) {
    let mut depth = 1;
    for (i, c) in text.char_indices() {
        depth += i32::from(c == open) - i32::from(c == close);
        if depth == 0 {
            return (&text[..i], &text[i + 1..]);
        }
    }
    panic!("the template has an open bracket: {text}")
}

/// Splits at the `|` of this level.
fn alternatives(text: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(&text[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    #[test]
    fn every_alternative_comes_up_and_nothing_else() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let made: BTreeSet<String> =
            (0..200).map(|_| spin("{a|b[ {c|d}]} $x_y!", &mut rng, &|s| format!("<{s}>"))).collect();
        let expected = ["a <x_y>!", "b <x_y>!", "b c <x_y>!", "b d <x_y>!"];
        assert_eq!(made, expected.map(String::from).into_iter().collect());
    }
}
