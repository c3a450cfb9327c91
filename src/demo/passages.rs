//! A second task, of another kind than SQL: questions about a passage, to be answered from it and nothing else.
//!
//! Promises the same tasks for the same seed; passages about things that do not exist, so that no model knows the answer from
//! elsewhere; each with a second thing of the same kind whose facts are the wrong answers; and a right answer that stands in
//! the passage word by word. Never overlaps between sides: the side is a hash of the prompt. All texts are made here.

use crate::domain::{ChatMessage, PromptHash};
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Where the passage begins and ends in the prompt.
pub const MARKS: [&str; 2] = ["<passage>", "</passage>"];

/// Scorers for training: no label, nothing that another text could satisfy.
pub const SCORERS: &str = "\
# What a good answer is, without labels: taken from the passage, about what was asked, short, no refusal, no repetition.
[grounded]
begin = '<passage>'
end = '</passage>'
threshold = 0.3

[length]
words_max = 25
weight = 0.2

[refusal]
weight = 0
threshold = 1.0

[repetition]
weight = 0
threshold = 0.7
";

/// Scorers that the gate decides by, and evaluations are made with: they know the right answer.
pub const TRUTH: &str = "\
# Whether the right answer is in the response; for evaluation, never for training.
[answer]
kind = 'contains'
";

/// One passage with one question about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The passage.
    pub document: String,
    /// The question.
    pub question: String,
    /// The right answer, as it stands in the passage.
    pub reference: String,
    /// What stands in the passage about the other thing: wrong, and grounded all the same.
    pub wrong: String,
}

impl Passage {
    /// The prompt.
    #[must_use]
    pub fn messages(&self) -> Vec<ChatMessage> {
        let [begin, end] = MARKS;
        let ask = "Answer in one short sentence, from the passage alone.";
        vec![ChatMessage::user(format!("{begin}\n{}\n{end}\n{ask} {}", self.document, self.question))]
    }

    /// The prompt's identity.
    #[must_use]
    pub fn hash(&self) -> PromptHash {
        PromptHash::of(&self.messages())
    }
}

/// A fact of a thing: how the passage tells it, and how people ask for it. `{}` is the value, `{it}` the thing.
struct Fact {
    told: &'static [&'static str],
    asked: &'static [&'static str],
    values: Values,
}

enum Values {
    Year,
    Person,
    Place,
    Measure(u32, u32, &'static str),
    OneOf(&'static [&'static str]),
}

struct Kind {
    noun: &'static str,
    facts: &'static [Fact],
}

const KINDS: &[Kind] = &[
    Kind {
        noun: "lighthouse",
        facts: &[
            Fact {
                told: &["{it} was lit for the first time in {}.", "The lamp of {it} first burned in {}."],
                asked: &["When was {it} lit for the first time?", "In which year did the lamp of {it} first burn?"],
                values: Values::Year,
            },
            Fact {
                told: &["{it} was designed by {}.", "The plans of {it} were drawn by {}."],
                asked: &["Who designed {it}?", "Who drew the plans of {it}?"],
                values: Values::Person,
            },
            Fact {
                told: &["The tower of {it} stands {} tall.", "With its tower, {it} rises {} above the rocks."],
                asked: &["How tall is the tower of {it}?", "How high does {it} rise?"],
                values: Values::Measure(14, 70, "metres"),
            },
            Fact {
                told: &["The walls of {it} are built of {}.", "{it} is a tower of {}."],
                asked: &["What are the walls of {it} built of?", "Of which material is {it}?"],
                values: Values::OneOf(&["granite", "brick", "cast iron", "limestone", "concrete", "oak"]),
            },
            Fact {
                told: &["{it} guards the harbour of {}.", "Ships bound for {} steer by {it}."],
                asked: &["Which harbour does {it} guard?", "Where are the ships bound that steer by {it}?"],
                values: Values::Place,
            },
        ],
    },
    Kind {
        noun: "library",
        facts: &[
            Fact {
                told: &["{it} opened its doors in {}.", "Readers first came to {it} in {}."],
                asked: &["When did {it} open its doors?", "In which year did readers first come to {it}?"],
                values: Values::Year,
            },
            Fact {
                told: &["{it} holds {} of manuscripts.", "On its shelves, {it} keeps {} of manuscripts."],
                asked: &["How many shelves of manuscripts does {it} hold?", "How much does {it} keep of manuscripts?"],
                values: Values::Measure(120, 4_000, "shelves"),
            },
            Fact {
                told: &["{it} was a gift of {}.", "The founder of {it} was {}."],
                asked: &["Whose gift was {it}?", "Who was the founder of {it}?"],
                values: Values::Person,
            },
            Fact {
                told: &["The rarest collection of {it} is about {}.", "{it} is known for its collection about {}."],
                asked: &["What is the rarest collection of {it} about?", "Which collection is {it} known for?"],
                values: Values::OneOf(&[
                    "whaling",
                    "clockmaking",
                    "beekeeping",
                    "tidal maps",
                    "glassblowing",
                    "falconry",
                ]),
            },
            Fact {
                told: &["{it} stands on the market square of {}.", "{it} belongs to the town of {}."],
                asked: &["In which town does {it} stand?", "To which town does {it} belong?"],
                values: Values::Place,
            },
        ],
    },
    Kind {
        noun: "bridge",
        facts: &[
            Fact {
                told: &["{it} was finished in {}.", "Carts have crossed {it} since {}."],
                asked: &["When was {it} finished?", "Since when have carts crossed {it}?"],
                values: Values::Year,
            },
            Fact {
                told: &["{it} spans {} of water.", "From bank to bank, {it} measures {}."],
                asked: &["How far does {it} span?", "How much does {it} measure from bank to bank?"],
                values: Values::Measure(40, 900, "metres"),
            },
            Fact {
                told: &["{it} was built under the engineer {}.", "The engineer of {it} was {}."],
                asked: &["Under which engineer was {it} built?", "Who was the engineer of {it}?"],
                values: Values::Person,
            },
            Fact {
                told: &["{it} leads to {}.", "Over {it} runs the road to {}."],
                asked: &["Where does {it} lead?", "To which town does the road over {it} run?"],
                values: Values::Place,
            },
            Fact {
                told: &["The toll on {it} was paid in {}.", "Who crossed {it} paid in {}."],
                asked: &["In what was the toll on {it} paid?", "What did people pay in who crossed {it}?"],
                values: Values::OneOf(&["salt", "copper coins", "candles", "barley", "wool", "iron nails"]),
            },
        ],
    },
];

const BEGINNINGS: &[&str] =
    &["Var", "Hol", "Mer", "Tan", "Bru", "Os", "Kel", "Dra", "Fen", "Lor", "Sil", "Ard", "Gar", "Wen"];
const ENDINGS: &[&str] = &["do", "mund", "ick", "ova", "stad", "eth", "wyn", "aro", "holm", "bry", "gate", "ness"];
const FIRST_NAMES: &[&str] =
    &["Henrik", "Amalia", "Tobias", "Greta", "Ruben", "Ines", "Casper", "Dorothea", "Milo", "Selma"];
const FILLERS: &[&str] = &[
    "Visitors come mostly in summer.",
    "Both are looked after by volunteers.",
    "A small museum tells the story of the region.",
    "Photographs are allowed without a fee.",
];

/// `count` tasks, no prompt twice.
#[must_use]
pub fn passages(seed: u64, count: usize) -> Vec<Passage> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut seen = std::collections::HashSet::new();
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let made = passage(&mut dice);
        if seen.insert(made.hash()) {
            all.push(made);
        }
    }
    all
}

fn passage(dice: &mut ChaCha8Rng) -> Passage {
    let kind = pick(dice, KINDS);
    let names = two(dice, |dice| format!("the {} of {}", kind.noun, place(dice)));
    let mut sentences: Vec<Vec<String>> = Vec::new();
    let asked = dice.random_range(0..kind.facts.len());
    let mut values = Vec::new();
    for name in &names {
        let mut facts: Vec<usize> = (0..kind.facts.len()).collect();
        facts.shuffle(dice);
        let mut own = Vec::new();
        for fact in facts {
            let value = distinct(dice, &kind.facts[fact].values, if fact == asked { &values } else { &[] });
            if fact == asked {
                values.push(value.clone());
            }
            own.push(capital(&pick(dice, kind.facts[fact].told).replace("{it}", name).replace("{}", &value)));
        }
        sentences.push(own);
    }
    // The thing that is asked about comes first in half of the passages.
    let about = dice.random_range(0..2);
    let mut text: Vec<String> = sentences.concat();
    text.insert(dice.random_range(0..=text.len()), (*pick(dice, FILLERS)).to_owned());
    let question = capital(&pick(dice, kind.facts[asked].asked).replace("{it}", &names[about]));
    let (reference, wrong) = (values[about].clone(), values[1 - about].clone());
    Passage { document: text.join(" "), question, reference, wrong }
}

fn pick<'a, T>(dice: &mut ChaCha8Rng, all: &'a [T]) -> &'a T {
    all.choose(dice).expect("the lists above are not empty")
}

/// Two that differ.
fn two(dice: &mut ChaCha8Rng, mut draw: impl FnMut(&mut ChaCha8Rng) -> String) -> [String; 2] {
    let first = draw(dice);
    loop {
        let second = draw(dice);
        if second != first {
            return [first, second];
        }
    }
}

fn distinct(dice: &mut ChaCha8Rng, values: &Values, taken: &[String]) -> String {
    loop {
        let drawn = value(dice, values);
        if !taken.contains(&drawn) {
            return drawn;
        }
    }
}

fn value(dice: &mut ChaCha8Rng, values: &Values) -> String {
    match values {
        Values::Year => dice.random_range(1640..1960).to_string(),
        Values::Person => format!("{} {}", pick(dice, FIRST_NAMES), place(dice)),
        Values::Place => place(dice),
        Values::Measure(least, most, unit) => format!("{} {unit}", dice.random_range(*least..*most)),
        Values::OneOf(all) => (*pick(dice, all)).to_owned(),
    }
}

fn place(dice: &mut ChaCha8Rng) -> String {
    format!("{}{}", pick(dice, BEGINNINGS), pick(dice, ENDINGS))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
