//! The database that questions are about: tables read from a folder of Parquet files, and the words and values in them.
//!
//! Promises to read `DIR/<table>.parquet` for every table once, into memory, and that linking a question to it depends
//! on nothing but the database and the text. Never looks at a label, and knows nothing of any one database.

use super::Error;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;

/// Text columns with more distinct values than this are prose or keys, not names that a question would mention.
const VALUES_MAX: usize = 20_000;
/// Shorter values (`a`, `de`) would be found in ordinary words' places.
const VALUE_CHARS_MIN: usize = 3;

/// One table, in memory.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
}

/// All tables, and what they name.
#[derive(Debug)]
pub struct Database {
    tables: BTreeMap<String, Table>,
    /// Words of table and column names, singular.
    schema_words: BTreeSet<String>,
    /// Every text value, as its lower-case words in the singular (people ask for `novels`), to its texts as stored.
    values: HashMap<Vec<String>, BTreeSet<String>>,
    /// The longest value, in words.
    value_words_max: usize,
}

/// What a question names of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Text values, as stored: each entry holds the spellings of one mention.
    pub values: Vec<BTreeSet<String>>,
    /// Numbers, digits and words alike, as digits.
    pub numbers: BTreeSet<String>,
    /// Words of the schema, singular.
    pub schema_words: BTreeSet<String>,
    /// All words of the question, lower case.
    pub words: Vec<String>,
}

impl Database {
    /// Reads every `*.parquet` of a folder.
    ///
    /// # Errors
    /// [`Error::Tables`] with the file that cannot be read, or the folder that has none.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let failed = |path: &Path, reason: String| Error::Tables { path: path.display().to_string(), reason };
        let listing = std::fs::read_dir(dir).map_err(|e| failed(dir, e.to_string()))?;
        let mut files: Vec<_> = listing.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "parquet"));
        files.sort();
        let mut tables = BTreeMap::new();
        for path in files {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
            let table = read_table(&path).map_err(|e| failed(&path, e))?;
            tables.insert(name, table);
        }
        if tables.is_empty() {
            return Err(failed(dir, "the folder has no .parquet file; name one after each table".to_owned()));
        }
        Ok(Self::new(tables))
    }

    /// Takes tables that are in memory.
    #[must_use]
    pub fn new(tables: BTreeMap<String, Table>) -> Self {
        let mut schema_words = BTreeSet::new();
        let mut values: HashMap<Vec<String>, BTreeSet<String>> = HashMap::new();
        for (name, table) in &tables {
            schema_words.extend(name_words(name));
            for (at, field) in table.schema.fields().iter().enumerate() {
                schema_words.extend(name_words(field.name()));
                for value in text_values(table, at) {
                    values.entry(singulars(&words(&value))).or_default().insert(value);
                }
            }
        }
        values.retain(|words, texts| {
            !words.is_empty() && texts.iter().any(|t| t.chars().count() >= VALUE_CHARS_MIN) && !is_number(words)
        });
        let value_words_max = values.keys().map(Vec::len).max().unwrap_or(0);
        Self { tables, schema_words, values, value_words_max }
    }

    /// The tables by name.
    #[must_use]
    pub fn tables(&self) -> &BTreeMap<String, Table> {
        &self.tables
    }

    /// What a question names. The longest value wins where two overlap, and a value's words are no schema words.
    #[must_use]
    pub fn link(&self, question: &str) -> Links {
        let words = words(question);
        let stems = singulars(&words);
        let mut links = Links { words: words.clone(), ..Links::default() };
        let mut at = 0;
        while at < words.len() {
            let longest = (1..=self.value_words_max.min(words.len() - at)).rev();
            let found = longest.filter_map(|n| self.values.get(&stems[at..at + n]).map(|texts| (n, texts))).next();
            if let Some((length, texts)) = found {
                links.values.push(texts.clone());
                at += length;
                continue;
            }
            let word = &words[at];
            if let Some(number) = number(word) {
                links.numbers.insert(number);
            } else if self.schema_words.contains(&stems[at]) {
                links.schema_words.insert(stems[at].clone());
            }
            at += 1;
        }
        links
    }
}

fn read_table(path: &Path) -> Result<Table, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| e.to_string())?;
    let schema = builder.schema().clone();
    let reader = builder.build().map_err(|e| e.to_string())?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    Ok(Table { schema, batches })
}

/// The distinct texts of one column; none where it is not text or has too many to be names.
fn text_values(table: &Table, column: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for batch in &table.batches {
        let array = batch.column(column);
        let mut push = |value: Option<&str>| found.extend(value.map(str::to_owned));
        match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().iter().for_each(&mut push),
            DataType::LargeUtf8 => array.as_string::<i64>().iter().for_each(&mut push),
            DataType::Utf8View => array.as_string_view().iter().for_each(&mut push),
            _ => {}
        }
        if found.len() > VALUES_MAX {
            return BTreeSet::new();
        }
    }
    found
}

/// Lower-case runs of letters and digits.
#[must_use]
pub(super) fn words(text: &str) -> Vec<String> {
    let split = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    split.map(str::to_lowercase).collect()
}

/// The words of `customer_id`: `customer`. Two letters (`id`, `no`) name nothing that a question would.
pub(super) fn name_words(name: &str) -> impl Iterator<Item = String> {
    words(name).into_iter().filter(|w| w.chars().count() > 2).map(|w| singular(&w))
}

/// English plurals as far as table names need them: `cities`, `boxes`, `orders`.
#[must_use]
pub(super) fn singular(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ies").filter(|s| s.len() > 1) {
        return format!("{stem}y");
    }
    for ending in ["sses", "xes", "ches", "shes"] {
        if word.ends_with(ending) {
            return word[..word.len() - 2].to_owned();
        }
    }
    let keeps = word.len() < 4 || word.ends_with("ss") || word.ends_with("us") || word.ends_with("is");
    if keeps { word.to_owned() } else { word.strip_suffix('s').unwrap_or(word).to_owned() }
}

/// Each word in the singular.
pub(super) fn singulars(words: &[String]) -> Vec<String> {
    words.iter().map(|w| singular(w)).collect()
}

/// A number word or digits, as digits without leading zeros.
#[must_use]
pub(super) fn number(word: &str) -> Option<String> {
    const WORDS: [&str; 13] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    if let Some(at) = WORDS.iter().position(|w| *w == word) {
        return Some(at.to_string());
    }
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse::<u128>().ok().map(|n| n.to_string())).flatten()
}

fn is_number(words: &[String]) -> bool {
    words.iter().all(|w| number(w).is_some())
}
