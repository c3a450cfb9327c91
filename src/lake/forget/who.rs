//! Which rows are about a requester: by the requester's name where a table has it, else by the calls and prompts that only
//! this requester made.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use deltalake::DeltaTableError;
use std::collections::HashSet;

/// Columns that say whom a row is about, of all tables together.
pub(super) const COLUMNS: &[&str] = &[
    "requester",
    "request_id",
    "prompt_hash",
    "payload",
    "key",
    "headers",
    "cycle",
    "kafka_topic",
    "kafka_topic_id",
    "kafka_partition",
    "kafka_offset",
];

/// A requester, and what is known to be theirs alone.
#[derive(Debug, Clone)]
pub(super) struct Who {
    requester: String,
    /// The requester as a raw message may spell it.
    spellings: Vec<Vec<u8>>,
    /// Ids of their calls.
    pub(super) requests: HashSet<String>,
    /// Hashes of prompts that nobody else asked.
    pub(super) prompts: HashSet<String>,
}

impl Who {
    pub(super) fn new(requester: &str) -> Self {
        let json = serde_json::Value::from(requester).to_string();
        let escaped: String = json.chars().flat_map(ascii).collect();
        let mut spellings: Vec<Vec<u8>> =
            [requester, json.trim_matches('"'), escaped.trim_matches('"')].map(|s| s.as_bytes().to_vec()).into();
        spellings.dedup();
        Self { requester: requester.to_owned(), spellings, requests: HashSet::new(), prompts: HashSet::new() }
    }

    /// For each row of a batch, whether it is about the requester.
    pub(super) fn matches(&self, batch: &RecordBatch) -> Result<BooleanArray, DeltaTableError> {
        let texts = |name: &str| batch.column_by_name(name).map(|c| cast(c, &DataType::Utf8)).transpose();
        let (requesters, requests, prompts) = (texts("requester")?, texts("request_id")?, texts("prompt_hash")?);
        // A log row names its requester. Everything else also goes by the calls and prompts that it hangs on.
        let is_log = requesters.is_some() && prompts.is_some();
        let derived = |column: Option<ArrayRef>| column.filter(|_| !is_log);
        let (requests, prompts) = (derived(requests), derived(prompts));
        let raw: Vec<ArrayRef> = ["payload", "key"]
            .iter()
            .filter_map(|name| batch.column_by_name(name))
            .map(|column| cast(column, &DataType::Binary))
            .collect::<Result<_, _>>()?;
        let headers = batch.column_by_name("headers").map(header_values).transpose()?;
        let row = |i: usize| {
            let is = |column: &Option<ArrayRef>, holds: &dyn Fn(&str) -> bool| {
                column.as_ref().is_some_and(|c| !c.is_null(i) && holds(c.as_string::<i32>().value(i)))
            };
            is(&requesters, &|text| text == self.requester)
                || is(&requests, &|id| self.requests.contains(id))
                || is(&prompts, &|hash| self.prompts.contains(hash))
                || raw.iter().any(|c| !c.is_null(i) && self.is_named_in(c.as_binary::<i32>().value(i)))
                || headers.as_ref().is_some_and(|h| h[i].iter().any(|value| self.is_named_in(value)))
        };
        Ok((0..batch.num_rows()).map(|i| Some(row(i))).collect())
    }

    /// Whether raw bytes name the requester as a word of its own: `bob` is not in `bobby`.
    fn is_named_in(&self, bytes: &[u8]) -> bool {
        self.spellings.iter().any(|word| holds_word(bytes, word))
    }
}

fn holds_word(bytes: &[u8], word: &[u8]) -> bool {
    let part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'@'));
    // A word that begins or ends with a mark of its own has its border there.
    let (first, last) = (part(word.first()), part(word.last()));
    !word.is_empty()
        && bytes.windows(word.len()).enumerate().any(|(at, window)| {
            window == word
                && !(first && at > 0 && part(bytes.get(at - 1)))
                && !(last && part(bytes.get(at + word.len())))
        })
}

/// A character as encoders that keep to ASCII write it.
fn ascii(c: char) -> Vec<char> {
    if c.is_ascii() {
        return vec![c];
    }
    let mut units = [0; 2];
    c.encode_utf16(&mut units).iter().flat_map(|unit| format!("\\u{unit:04x}").chars().collect::<Vec<_>>()).collect()
}

fn header_values(headers: &ArrayRef) -> Result<Vec<Vec<Vec<u8>>>, DeltaTableError> {
    let lists = headers.as_list_opt::<i32>().ok_or_else(|| DeltaTableError::generic("headers are no list"))?;
    let values = |i: usize| -> Result<Vec<Vec<u8>>, DeltaTableError> {
        if lists.is_null(i) {
            return Ok(Vec::new());
        }
        let list = lists.value(i);
        let Some(values) = list.as_struct_opt().and_then(|s| s.column_by_name("value")) else { return Ok(Vec::new()) };
        let values = cast(values, &DataType::Binary)?;
        Ok(values.as_binary::<i32>().iter().flatten().map(<[u8]>::to_vec).collect())
    };
    (0..lists.len()).map(values).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_message_names_a_requester_as_a_word_of_its_own() {
        for (who, text, named) in [
            ("bob", r#"{"user":"bob"}"#, true),
            ("bob", "bob", true),
            ("bob", r#"{"user":"bobby"}"#, false),
            ("bob", "x-bob", false),
            ("bob", "bob@example.com", false),
            ("bob@example.com", "from bob@example.com.", true),
            ("josé", r#"{"user":"jos\u00e9"}"#, true),
            ("josé", "josé,", true),
            (r#"o"neil"#, r#"{"user":"o\"neil"}"#, true),
        ] {
            assert_eq!(Who::new(who).is_named_in(text.as_bytes()), named, "{who} in {text}");
        }
    }
}
