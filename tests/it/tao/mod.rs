//! The TAO engine's promises: no hack pays, no SQL harms, losses as on paper, the same seed the same adapter.

mod calibration;
mod collapse;
mod endpoint;
mod executor;
mod explore;
mod judge;
mod kept;
mod learning;
mod losses;
mod memory;
mod passages;
mod reward;
mod scorers;
mod shop;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use pelton::domain::{Candidate, Finish, PromptHash};
use pelton::tao::score::Database;
use pelton::tao::score::database::Table;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A sampled response that nobody has scored.
fn candidate(prompt: PromptHash, sample: u32, text: &str) -> Candidate {
    Candidate {
        prompt,
        sample,
        strategy: "temperature=1".to_owned(),
        seed: 0,
        tokens: vec![1],
        text: text.to_owned(),
        logprobs: vec![-0.5],
        finish: Finish::Stop,
        reward: None,
        components: Vec::new(),
    }
}

fn table(columns: Vec<(&str, ArrayRef)>) -> Table {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    Table { schema: batch.schema(), batches: vec![batch] }
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn wholes(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// A library, not the shop: nothing in the scorer may know one database.
fn library() -> Arc<Database> {
    let books = table(vec![
        ("book_id", wholes(&[1, 2, 3, 4])),
        ("title", texts(&["Sea of Glass", "Winter Road", "The Ninth Wave", "Glass"])),
        ("genre", texts(&["novel", "travel", "novel", "poetry"])),
        ("pages", wholes(&[320, 180, 450, 90])),
        ("price", Arc::new(Float64Array::from(vec![12.5, 9.0, 15.0, 7.25]))),
        ("author_id", wholes(&[1, 2, 1, 3])),
    ]);
    let authors = table(vec![
        ("author_id", wholes(&[1, 2, 3])),
        ("name", texts(&["Mira Holt", "Tom Arden", "Lea Brandt"])),
        ("country", texts(&["Ireland", "Canada", "Austria"])),
    ]);
    let tables = BTreeMap::from([("books".to_owned(), books), ("authors".to_owned(), authors)]);
    Arc::new(Database::new(tables))
}
