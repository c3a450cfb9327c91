//! The rules of ARCHITECTURE.md that a reader relies on, read from the sources themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What every module but `domain` may import of ours.
const FOUNDATION: &[&str] = &["domain", "config", "codec", "runtime", "telemetry"];
/// The exceptions of "Who may import whom", all of them.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    ("telemetry", &["config"]),
    ("window", &["query"]),
    ("tao", &["query", "model"]),
    ("evaluate", &["model"]),
    ("serve", &["model"]),
];
/// The modules that know every stage.
const ROOTS: &[&str] = &["daemon", "cli", "demo"];
/// Who alone may name a crate.
const OWNERS: &[(&str, &[&str])] = &[
    ("rdkafka", &["ingest", "publish", "sidecar", "daemon", "demo", "telemetry"]),
    ("deltalake", &["lake"]),
    ("candle_core", &["model", "tao", "evaluate", "serve", "daemon", "demo", "cli"]),
    ("tokenizers", &["model"]),
    ("rustyline", &["query", "cli"]),
];

fn allowed(module: &str) -> BTreeSet<&'static str> {
    let mut names: BTreeSet<&str> = match module {
        "domain" => BTreeSet::new(),
        "config" | "codec" | "runtime" | "telemetry" => BTreeSet::from(["domain"]),
        _ => FOUNDATION.iter().copied().collect(),
    };
    for (who, whom) in EXCEPTIONS {
        if *who == module {
            names.extend(*whom);
        }
    }
    names
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Each `.rs` file under `src` with its top-level module and its text without comments.
fn crate_sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 15, "the sources were not found under {}", root.display());
    files
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&root).unwrap().to_owned();
            let first = relative.components().next().unwrap().as_os_str().to_string_lossy();
            let module = first.trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code: Vec<&str> = text.lines().map(|l| l.split("//").next().unwrap_or("")).collect();
            (module, relative, code.join("\n"))
        })
        .collect()
}

/// The first path segments after every `crate::` in a text, the ones inside `crate::{a, b}` included.
fn crate_imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0usize;
            let mut start = true;
            for (i, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if start && (c.is_alphabetic() || c == '_') => {
                        found.insert(word(&group[i..]));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            found.insert(word(rest));
        }
    }
    found
}

#[test]
fn a_module_imports_only_what_the_architecture_allows() {
    let mut broken = Vec::new();
    let modules: BTreeSet<String> = crate_sources().into_iter().map(|(m, _, _)| m).collect();
    for (module, file, text) in crate_sources() {
        if ROOTS.contains(&module.as_str()) || ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let allowed = allowed(&module);
        for import in crate_imports(&text) {
            if import != module && modules.contains(&import) && !allowed.contains(import.as_str()) {
                broken.push(format!("{}: {module} imports {import}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "imports that ARCHITECTURE.md forbids:\n{}", broken.join("\n"));
}

#[test]
fn a_crate_is_named_only_by_its_owner() {
    let mut broken = Vec::new();
    for (module, file, text) in crate_sources() {
        for (name, owners) in OWNERS {
            if text.contains(&format!("{name}::")) && !owners.contains(&module.as_str()) {
                broken.push(format!("{}: {module} names {name}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "crates named outside their owner:\n{}", broken.join("\n"));
}

#[test]
fn every_source_file_says_what_it_is_for_and_stays_readable() {
    let mut broken = Vec::new();
    for (_, file, _) in crate_sources() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&file);
        let text = fs::read_to_string(path).unwrap();
        if !text.starts_with("//!") {
            broken.push(format!("{}: does not open with //!", file.display()));
        }
        if text.lines().count() > 600 {
            broken.push(format!("{}: {} lines, split it by responsibility", file.display(), text.lines().count()));
        }
        for mark in ["TODO", "FIXME", "todo!(", "unimplemented!("] {
            if text.contains(mark) {
                broken.push(format!("{}: contains {mark}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_import_reader_sees_what_it_should() {
    let text = "use crate::lake::Table; use crate::{domain::{A, B}, codec}; let x = crate::query::run(); mycrate::no";
    let expected = ["lake", "domain", "codec", "query"].map(String::from);
    assert_eq!(crate_imports(text), expected.into_iter().collect());
}
