//! A language model judges by a rubric: single answers on a scale, or a prompt's samples in pairs.
//!
//! Promises that nothing is asked twice: verdicts are kept by the hash of what was asked, on disk where a file is configured;
//! that a verdict is strictly read JSON, asked for once more where it is not, and none where it still is not; that a pair is
//! asked in both orders and won only by whom both orders prefer; that a spent budget ends the calls and does what the settings
//! say; and that scoring fails, with what the judge said, where too many responses have no verdict.

mod backend;
mod cache;
mod question;

use super::Error;
use super::case::{Case, Finding};
use super::member::Measure;
use crate::config::{JudgeScore, Spent};
use crate::domain::ChatMessage;
use crate::tao::Watch;
use crate::tao::endpoint;
use backend::Backend;
use cache::{Cache, key};
use question::Form;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A language model that judges by a rubric.
#[derive(Debug)]
pub struct Judge {
    settings: JudgeScore,
    backend: Backend,
    cache: Cache,
}

/// One thing that the judge is asked.
struct Ask {
    key: String,
    messages: Vec<ChatMessage>,
    form: Form,
}

impl Judge {
    /// Sets the judge up; `resolve` makes paths of the configuration absolute.
    ///
    /// # Errors
    /// [`Error`], naming what is wrong and what would be right.
    pub fn open(settings: &JudgeScore, resolve: &dyn Fn(&str) -> PathBuf) -> Result<Self, Error> {
        let backend = Backend::open(settings, resolve)?;
        let cache = Cache::open(settings.cache.as_deref().map(resolve))?;
        Ok(Self { settings: settings.clone(), backend, cache })
    }

    /// What each response wins against another answer to the same prompt: 1, 0, or a half where the judge sees no difference, or
    /// changes its mind with the order; nothing where it gave no verdict. Equal texts draw unasked.
    ///
    /// # Errors
    /// [`Error`].
    pub fn duels(&self, duels: &[(Case<'_>, &str)], watch: &Watch<'_>) -> Result<Vec<Option<f64>>, Error> {
        let ask = |a: &Case<'_>, b: &str| self.ask(question::pair(&self.settings, a, b), Form::Pair);
        let differ: Vec<&(Case<'_>, &str)> = duels.iter().filter(|(a, b)| a.response != *b).collect();
        let both = |(a, b): &&(Case<'_>, &str)| [ask(a, b), ask(&Case { response: b, ..*a }, a.response)];
        let asks: Vec<Ask> = differ.iter().flat_map(both).collect();
        let verdicts = self.verdicts(&asks, watch)?;
        let mut told = verdicts.chunks(2).map(|both| {
            let (forward, backward) = (both[0]?, both[1]?);
            // Both orders must agree: who wins by standing first wins half.
            Some(if forward == 1.0 - backward { forward } else { 0.5 })
        });
        Ok(duels.iter().map(|(a, b)| if a.response == *b { Some(0.5) } else { told.next().flatten() }).collect())
    }

    fn ask(&self, messages: Vec<ChatMessage>, form: Form) -> Ask {
        Ask { key: key(self.backend.name(), &messages), messages, form }
    }

    /// One verdict an ask, from 0 to 1, from the cache or the judge.
    fn verdicts(&self, asks: &[Ask], watch: &Watch<'_>) -> Result<Vec<Option<f64>>, Error> {
        let mut open: BTreeMap<&str, &Ask> = BTreeMap::new();
        for ask in asks.iter().filter(|ask| self.cache.get(&ask.key).is_none()) {
            open.insert(&ask.key, ask);
        }
        let open: Vec<&Ask> = open.into_values().collect();
        let first: Vec<Vec<ChatMessage>> = open.iter().map(|ask| ask.messages.clone()).collect();
        let mut problems = Problems::default();
        let mut again: Vec<(&Ask, Vec<ChatMessage>)> = Vec::new();
        for (ask, reply) in open.iter().zip(self.backend.answers(&first, open.first().map(|a| a.form), watch)?) {
            match reply {
                Ok(text) => match ask.form.read(&text) {
                    Ok(value) => self.cache.put(&ask.key, value)?,
                    Err(why) => again.push((ask, question::once_more(&ask.messages, &text, &why, ask.form))),
                },
                Err(error) => problems.met(error)?,
            }
        }
        let second: Vec<Vec<ChatMessage>> = again.iter().map(|(_, messages)| messages.clone()).collect();
        for ((ask, _), reply) in
            again.iter().zip(self.backend.answers(&second, again.first().map(|a| a.0.form), watch)?)
        {
            match reply {
                Ok(text) => match ask.form.read(&text) {
                    Ok(value) => self.cache.put(&ask.key, value)?,
                    Err(why) => problems.last = Some(why),
                },
                Err(error) => problems.met(error)?,
            }
        }
        self.check(asks, problems)?;
        Ok(asks.iter().map(|ask| self.cache.get(&ask.key)).collect())
    }

    /// Whether there are verdicts enough to go on.
    fn check(&self, asks: &[Ask], problems: Problems) -> Result<(), Error> {
        if let Some(spent) = problems.spent {
            return if self.settings.when_spent == Spent::LeaveOut { Ok(()) } else { Err(Error::Budget(spent)) };
        }
        let asked: BTreeSet<&str> = asks.iter().map(|a| a.key.as_str()).collect();
        let without = asked.iter().filter(|key| self.cache.get(key).is_none()).count();
        #[expect(clippy::cast_precision_loss, reason = "responses are counted in thousands")]
        let share = without as f64 / asked.len().max(1) as f64;
        if share <= self.settings.without_share_max {
            return Ok(());
        }
        let last = problems.last.unwrap_or_default();
        Err(Error::Judge { without, asked: asked.len(), last })
    }

    /// The share of pairs that each distinct text of a prompt wins; a tie and a change of mind are half a win.
    fn tournament(&self, cases: &[Case<'_>], groups: &[Vec<usize>], watch: &Watch<'_>) -> Result<Vec<Finding>, Error> {
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        let mut alone: Vec<usize> = Vec::new();
        for members in groups {
            let firsts = distinct(cases, members);
            if firsts.len() < 2 {
                alone.extend(firsts);
                continue;
            }
            let mut own: BTreeSet<(usize, usize)> = BTreeSet::new();
            for (i, &a) in firsts.iter().enumerate() {
                for step in 1..=self.settings.opponents.min(firsts.len() - 1) {
                    let b = firsts[(i + step) % firsts.len()];
                    own.insert((a.min(b), a.max(b)));
                }
            }
            pairs.extend(own);
        }
        let duels: Vec<(Case<'_>, &str)> = pairs.iter().map(|&(a, b)| (cases[a], cases[b].response)).collect();
        let mut won: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (&(a, b), a_wins) in pairs.iter().zip(self.duels(&duels, watch)?) {
            let Some(a_wins) = a_wins else { continue };
            won.entry(a).or_default().push(a_wins);
            won.entry(b).or_default().push(1.0 - a_wins);
        }
        let mut findings = vec![Finding::NONE; cases.len()];
        let singles: Vec<Case<'_>> = alone.iter().map(|&at| cases[at]).collect();
        for (at, finding) in alone.iter().zip(self.measure(&singles, watch)?) {
            findings[*at] = finding;
        }
        for (at, wins) in won {
            #[expect(clippy::cast_precision_loss, reason = "a text has few opponents")]
            let count = wins.len() as f64;
            findings[at] = Finding { value: Some(wins.iter().sum::<f64>() / count), parts: vec![("pairs", count)] };
        }
        share_with_equals(cases, groups, &mut findings);
        Ok(findings)
    }
}

/// The first case of each distinct text of a prompt.
fn distinct(cases: &[Case<'_>], members: &[usize]) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    members.iter().copied().filter(|&at| seen.insert(cases[at].response)).collect()
}

/// Equal texts have equal findings.
fn share_with_equals(cases: &[Case<'_>], groups: &[Vec<usize>], findings: &mut [Finding]) {
    for members in groups {
        let known: BTreeMap<&str, Finding> =
            distinct(cases, members).into_iter().map(|at| (cases[at].response, findings[at].clone())).collect();
        for &at in members {
            findings[at] = known[cases[at].response].clone();
        }
    }
}

impl Measure for Judge {
    fn measure(&self, cases: &[Case<'_>], watch: &Watch<'_>) -> Result<Vec<Finding>, Error> {
        let form = Form::Scale(self.settings.scale_max);
        let asks: Vec<Ask> = cases.iter().map(|c| self.ask(question::single(&self.settings, c), form)).collect();
        let verdicts = self.verdicts(&asks, watch)?;
        Ok(verdicts.into_iter().map(|value| Finding { value, parts: Vec::new() }).collect())
    }

    fn compare(&self, cases: &[Case<'_>], groups: &[Vec<usize>], watch: &Watch<'_>) -> Result<Vec<Finding>, Error> {
        if self.settings.pairs { self.tournament(cases, groups, watch) } else { self.measure(cases, watch) }
    }

    fn spent(&self) -> Option<String> {
        self.backend.spent().map(|spent| format!("judge {}: {spent}", self.backend.name()))
    }
}

/// What went wrong while asking.
#[derive(Default)]
struct Problems {
    last: Option<String>,
    spent: Option<endpoint::Error>,
}

impl Problems {
    fn met(&mut self, error: endpoint::Error) -> Result<(), Error> {
        match error {
            endpoint::Error::Cancelled => return Err(Error::Cancelled),
            endpoint::Error::Budget { .. } => self.spent = Some(error),
            other => self.last = Some(other.to_string()),
        }
        Ok(())
    }
}
