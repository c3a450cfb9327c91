//! What the shop's people ask, each question with its true SQL: the demo's task, and its measure.
//!
//! Promises the same questions for the same shop, seed and dial; no question twice; every value of a question taken
//! from a row that satisfies it, so that its SQL returns rows; and labelled and asked questions that never overlap,
//! since the side is a hash of the question. Never runs SQL: a test runs every one.

mod intents;
mod spin;

use super::shop::{Customer, Employee, Order, Product, Shop, Supplier};
use crate::domain::{ChatMessage, PromptHash};
use intents::{INTENTS, Intent};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use spin::spin;
use std::collections::HashSet;

/// What the side of a question is salted with; another word than the window's, so that the two splits cross.
const SIDE_SALT: &str = "shop-questions";
/// The share of all questions that may be labelled.
const LABELLED_SHARE: f64 = 0.3;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// As a user types it.
    pub text: String,
    /// The SQL that answers it, in DataFusion's dialect.
    pub sql: String,
    /// 1: one table and a filter; 2: aggregates, groups, superlatives; 3: joins and subqueries.
    pub level: u8,
}

impl Question {
    /// The question as the only turn of a conversation.
    #[must_use]
    pub fn messages(&self) -> Vec<ChatMessage> {
        vec![ChatMessage::user(self.text.clone())]
    }

    /// The prompt's identity.
    #[must_use]
    pub fn hash(&self) -> PromptHash {
        PromptHash::of(&self.messages())
    }

    /// Which side it is on, for ever.
    #[must_use]
    pub fn side(&self) -> Side {
        if self.hash().uniform(SIDE_SALT) < LABELLED_SHARE { Side::Labelled } else { Side::Asked }
    }
}

/// Who sees a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It may be among the labels that the base model learns from.
    Labelled,
    /// Users ask it; nobody labels it.
    Asked,
}

/// How hard the questions are: the relative weight of each level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dial {
    /// Weights of the levels 1, 2 and 3.
    pub levels: [f64; 3],
}

impl Default for Dial {
    /// Every kind of question as often as any other.
    fn default() -> Self {
        Self { levels: [1.0, 1.0, 1.0] }
    }
}

/// Draws `count` different questions of one side.
#[must_use]
pub fn questions(shop: &Shop, seed: u64, count: usize, side: Side, dial: Dial) -> Vec<Question> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut made, mut seen) = (Vec::with_capacity(count), HashSet::new());
    while made.len() < count {
        let intent = kind(&mut rng, dial);
        let question = ask(shop, &mut rng, intent);
        if question.side() == side && seen.insert(question.hash()) {
            made.push(question);
        }
    }
    made
}

/// Draws SQL that the shop answers, without a question: what a database's own log holds.
#[must_use]
pub fn statements(shop: &Shop, seed: u64, count: usize, dial: Dial) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let intent = kind(&mut rng, dial);
            let rows = Rows::draw(shop, &mut rng);
            spin(intent.sql, &mut rng, &|slot| rows.slot(slot))
        })
        .collect()
}

fn kind(rng: &mut ChaCha8Rng, dial: Dial) -> &'static Intent {
    let weight = |intent: &Intent| dial.levels[usize::from(intent.level) - 1];
    let mut at = rng.random_range(0.0..INTENTS.iter().map(weight).sum());
    for intent in INTENTS {
        at -= weight(intent);
        if at < 0.0 {
            return intent;
        }
    }
    INTENTS.last().expect("the list is not empty")
}

fn ask(shop: &Shop, rng: &mut ChaCha8Rng, intent: &Intent) -> Question {
    let rows = Rows::draw(shop, rng);
    let slot = |name: &str| rows.slot(name);
    let phrase = intent.phrases[rng.random_range(0..intent.phrases.len())];
    let text = manner(&spin(phrase, rng, &slot), rng);
    // The SQL has no alternatives, so that the generator is only passed through.
    Question { text, sql: spin(intent.sql, rng, &slot), level: intent.level }
}

/// How people type: mostly plain, some politely, some without the question mark or the capital.
fn manner(text: &str, rng: &mut ChaCha8Rng) -> String {
    let mut text = capital(text);
    if rng.random_bool(0.25) {
        text = text.trim_end_matches('?').to_owned();
    }
    if rng.random_bool(0.2) {
        text = lower(&text);
    }
    match rng.random_range(0..12) {
        0 => format!("please: {}", lower(&text)),
        1 => format!("{text} Thanks!"),
        2 => format!("Hello, {}", lower(&text)),
        _ => text,
    }
}

fn capital(text: &str) -> String {
    text[..1].to_uppercase() + &text[1..]
}

/// Lowers the first letter, unless a name begins there.
fn lower(text: &str) -> String {
    text[..1].to_lowercase() + &text[1..]
}

/// Rows that belong together: an order with its customer, product and supplier, and somebody of the staff.
///
/// All values of a question come from one such draw, so that any conjunction of them holds for at least one row.
struct Rows<'a> {
    order: &'a Order,
    customer: &'a Customer,
    product: &'a Product,
    supplier: &'a Supplier,
    employee: &'a Employee,
    /// How many rows a "top" question asks for.
    top: usize,
    /// Whether that number is written as a word.
    spelled: bool,
}

impl<'a> Rows<'a> {
    fn draw(shop: &'a Shop, rng: &mut ChaCha8Rng) -> Self {
        let order = &shop.orders[rng.random_range(0..shop.orders.len())];
        let product = &shop.products[order.product];
        Self {
            order,
            customer: &shop.customers[order.customer],
            product,
            supplier: &shop.suppliers[product.supplier],
            employee: &shop.employees[rng.random_range(0..shop.employees.len())],
            top: rng.random_range(2..9),
            spelled: rng.random_bool(0.4),
        }
    }

    fn slot(&self, name: &str) -> String {
        const WORDS: [&str; 9] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"];
        match name {
            "customer" => self.customer.name.clone(),
            "city" => self.customer.city.clone(),
            "country" => self.customer.country.clone(),
            "since" => (self.customer.since - 1).to_string(),
            "product" => self.product.name.clone(),
            "category" => self.product.category.clone(),
            // Round figures just beyond the row's own, so that the row is among the answer.
            "under" => (self.product.price / 20 * 20 + 20).to_string(),
            "over" => ((self.product.price - 1) / 20 * 20).to_string(),
            "low" => (self.product.stock / 10 * 10 + 10).to_string(),
            "supplier" => self.supplier.name.clone(),
            "supplier_country" => self.supplier.country.clone(),
            "status" => self.order.status.clone(),
            "year" => self.order.year.to_string(),
            "employee" => self.employee.name.clone(),
            "role" => self.employee.role.clone(),
            "work_city" => self.employee.city.clone(),
            "hired" => (self.employee.hired - 1).to_string(),
            "n" => self.top.to_string(),
            "n_text" if self.spelled => WORDS[self.top].to_owned(),
            "n_text" => self.top.to_string(),
            other => panic!("a template asks for the unknown slot ${other}"),
        }
    }
}
