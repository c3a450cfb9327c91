//! Whether a response says only what a document says, and whether it answers with the part that was asked about.
//!
//! A product of parts, so that none can be bought by another: invented numbers, names or quotations, words from elsewhere, the
//! question said again, a true sentence about something else. No part needs a label.

use super::super::case::{Case, Finding};
use super::super::member::Says;
use super::super::text::{names, numbers, quotations, sentences, stem, stems, words};
use crate::config::GroundedScore;
use std::collections::BTreeSet;

/// How sentences begin that speak on.
const PRONOUNS: &[&str] = &["he", "her", "his", "it", "its", "she", "their", "they", "these", "this", "those"];

#[derive(Debug)]
pub(in super::super) struct Grounded(pub(in super::super) GroundedScore);

impl Says for Grounded {
    fn says(&self, case: &Case<'_>) -> Finding {
        let (document, question) = self.split(case);
        let said = stems(case.response);
        if said.is_empty() || document.trim().is_empty() {
            return Finding::of(0.0);
        }
        let (known, asked) = (stems(&document), stems(&question));
        let all_words: BTreeSet<String> = words(&document).into_iter().chain(words(&question)).collect();
        let parts = [
            ("support", share(said.iter().map(|s| known.contains(s) || asked.contains(s)))),
            ("numbers", share(numbers(case.response).iter().map(|n| all_words.contains(n)))),
            ("names", share(names(case.response).iter().map(|n| all_words.contains(n)))),
            ("quotations", quoted(case.response, &document)),
            ("says_more", f64::from(u8::from(said.iter().any(|s| known.contains(s) && !asked.contains(s))))),
            ("focus", focus(&said, &asked, &named(&question), &document)),
        ];
        let value = parts.iter().map(|(_, part)| part).product();
        Finding { value: Some(value), parts: parts.to_vec() }
    }
}

impl Grounded {
    /// The document and the question.
    fn split(&self, case: &Case<'_>) -> (String, String) {
        if let Some(document) = case.document {
            return (document.to_owned(), case.question().replace(document, " "));
        }
        let turns = || case.messages.iter().filter(|m| m.role == "user" || m.role == "system");
        if let (Some(begin), Some(end)) = (&self.0.begin, &self.0.end) {
            for turn in turns() {
                if let Some((before, rest)) = turn.content.split_once(begin.as_str())
                    && let Some((document, after)) = rest.split_once(end.as_str())
                {
                    let own = format!("{before} {after}");
                    let question = if turn.role == "user" { own } else { case.question().to_owned() };
                    return (document.to_owned(), question);
                }
            }
            return (String::new(), case.question().to_owned());
        }
        let question = case.question().trim_end();
        let (head, tail) = question.rsplit_once('\n').unwrap_or(("", question));
        let others = turns().filter(|m| m.content != case.question()).map(|m| m.content.as_str());
        (others.chain([head]).collect::<Vec<_>>().join("\n"), tail.to_owned())
    }
}

fn quoted(response: &str, document: &str) -> f64 {
    let document = format!(" {} ", words(document).join(" "));
    share(quotations(response).iter().map(|q| document.contains(&format!(" {q} "))))
}

/// How much of the question the sentences speak of that the response is taken from: of the question's words that the document
/// has at all, the share that is in the sentence with most of the response's words; where that begins with a pronoun, the one
/// before it counts too, because it names what "it" is. What the question calls by name must be there: a sentence that has all the other words speaks of
/// something else. The best such sentence counts.
fn focus(said: &BTreeSet<String>, asked: &BTreeSet<String>, named: &BTreeSet<String>, document: &str) -> f64 {
    let sentences = sentences(document);
    let stems: Vec<BTreeSet<String>> = sentences.iter().map(|s| stems(s)).collect();
    let known: BTreeSet<&String> = asked.iter().filter(|a| stems.iter().any(|s| s.contains(*a))).collect();
    if known.is_empty() {
        return 1.0;
    }
    let new: BTreeSet<&String> = said.iter().filter(|s| !asked.contains(*s)).collect();
    let overlap = |sentence: &BTreeSet<String>| new.iter().filter(|s| sentence.contains(**s)).count();
    let most = stems.iter().map(overlap).max().unwrap_or(0);
    let sources = (0..stems.len()).filter(|&i| most > 0 && overlap(&stems[i]) == most);
    let spoken = |i: usize| {
        let before = i.checked_sub(1).filter(|_| refers_back(sentences[i])).map(|b| &stems[b]);
        let there = |word: &str| stems[i].contains(word) || before.is_some_and(|b| b.contains(word));
        let names = share(known.iter().filter(|a| named.contains(**a)).map(|a| there(a)));
        names * share(known.iter().map(|a| there(a)))
    };
    sources.map(spoken).fold(0.0, f64::max)
}

/// What a question calls by name.
fn named(question: &str) -> BTreeSet<String> {
    names(question).iter().map(|n| stem(n)).collect()
}

/// Whether a sentence is about what the one before it named.
fn refers_back(sentence: &str) -> bool {
    let first = words(sentence).into_iter().next().unwrap_or_default();
    PRONOUNS.contains(&first.as_str())
}

/// The share of `true`; 1 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a text has few words")]
fn share(found: impl Iterator<Item = bool>) -> f64 {
    let (all, yes) = found.fold((0usize, 0usize), |(all, yes), is| (all + 1, yes + usize::from(is)));
    if all == 0 { 1.0 } else { yes as f64 / all as f64 }
}
