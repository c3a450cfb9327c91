//! Which of the distinct prompts are taken: none of an evaluation set, no near-duplicate, not too many of one requester, and no
//! more than the window's maximum.

use super::choose::{Request, last_user_turn, left_out_prompt, order};
use super::near::{Near, Sketch};
use super::rows::About;
use crate::domain::{Exclusion, LeftOut, Prompt, user_text};
use std::collections::BTreeMap;

/// How near a prompt may not be to one of an evaluation set, where the window does not say.
const AVOID_SIMILARITY: f64 = 0.8;
/// What a weighted draw is a hash of, beside the prompt.
const WEIGHT_SALT: &str = "pelton/weight/1";

/// A distinct prompt, as the latest call with it has it.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub prompt: Prompt,
    pub about: About,
    /// Calls with this very prompt.
    pub calls: usize,
}

impl Chosen {
    /// Why it is in the set.
    pub(super) fn reason(&self) -> String {
        let mut reason = match self.calls {
            1 => "the only call with this prompt".to_owned(),
            calls => format!("latest of {calls} calls with this prompt"),
        };
        if let Some(stratum) = &self.about.stratum {
            reason += &format!("; of the stratum `{stratum}`");
        }
        if self.about.weight != 1.0 {
            reason += &format!("; weight {}", self.about.weight);
        }
        reason
    }

    /// The greatest come first. With weights it is the draw without replacement of P. Efraimidis and P. Spirakis (2006),
    /// `u^(1/w)` in logarithms, its u a hash of the prompt; all alike, the latest come first.
    fn draw(&self) -> f64 {
        self.prompt.hash.uniform(WEIGHT_SALT).max(f64::MIN_POSITIVE).ln() / self.about.weight.max(f64::MIN_POSITIVE)
    }
}

/// Takes prompts; the others go to `left_out`.
pub(super) fn thin(mut all: Vec<Chosen>, request: &Request<'_>, left_out: &mut Vec<LeftOut>) -> Vec<Chosen> {
    let window = request.window;
    let weighted = all.iter().any(|c| c.about.weight != 1.0);
    all.sort_by(|a, b| {
        let drawn = if weighted { b.draw().total_cmp(&a.draw()) } else { std::cmp::Ordering::Equal };
        drawn.then_with(|| order(&b.prompt).cmp(&order(&a.prompt)))
    });
    let mut leave = |chosen: Chosen, why: Exclusion| left_out.push(left_out_prompt(chosen.prompt, why));
    let mut avoided = Near::new(window.near_duplicates.unwrap_or(AVOID_SIMILARITY));
    request.avoid.iter().filter_map(|text| Sketch::of(text)).for_each(|sketch| avoided.add(sketch));
    let mut near = window.near_duplicates.map(Near::new);
    let mut by_user: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for chosen in all {
        // Of a conversation its last turn says little; "yes" may follow anything.
        let asked = Sketch::of(&user_text(&chosen.prompt.messages));
        let near_one = |of: &Near, sketch: &Option<Sketch>| sketch.as_ref().is_some_and(|s| of.find(s).is_some());
        if chosen.about.weight <= 0.0 {
            leave(chosen, Exclusion::OverMaximum);
        } else if !request.avoid.is_empty()
            && (near_one(&avoided, &asked) || near_one(&avoided, &Sketch::of(last_user_turn(&chosen.prompt))))
        {
            leave(chosen, Exclusion::Contaminated);
        } else if near.as_ref().is_some_and(|near| near_one(near, &asked)) {
            leave(chosen, Exclusion::NearDuplicate);
        } else if is_over(&chosen, window.per_user_max, &mut by_user) {
            leave(chosen, Exclusion::UserMaximum);
        } else {
            near.iter_mut().zip(asked).for_each(|(near, sketch)| near.add(sketch));
            kept.push(chosen);
        }
    }
    let (kept, over) = in_turn(kept, window.prompts_max);
    over.into_iter().for_each(|chosen| leave(chosen, Exclusion::OverMaximum));
    kept
}

/// Counts a requester's prompt and tells whether it is one too many.
fn is_over(chosen: &Chosen, most: Option<usize>, by_user: &mut BTreeMap<String, usize>) -> bool {
    let (Some(most), Some(requester)) = (most, &chosen.about.requester) else { return false };
    let count = by_user.entry(requester.clone()).or_default();
    *count += 1;
    *count > most
}

/// As many as may be, one of each stratum in turn; without strata simply the first.
fn in_turn(all: Vec<Chosen>, most: usize) -> (Vec<Chosen>, Vec<Chosen>) {
    let mut placed: BTreeMap<Option<String>, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, Chosen)> = Vec::new();
    for chosen in all {
        let rank = placed.entry(chosen.about.stratum.clone()).or_default();
        ranked.push((*rank, chosen));
        *rank += 1;
    }
    // Stable: of one rank those that came first stay first.
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut ranked: Vec<Chosen> = ranked.into_iter().map(|(_, chosen)| chosen).collect();
    let over = ranked.split_off(most.min(ranked.len()));
    (ranked, over)
}
