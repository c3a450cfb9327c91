//! The promise of `pelton demo`: the whole wheel turns once, on a machine with nothing but the binary and the base model.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn pelton(arguments: &[&str]) -> std::process::Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new(env!("CARGO_BIN_EXE_pelton")).args(arguments).current_dir(root).output().unwrap()
}

#[test]
fn the_demo_turns_the_wheel_once_with_a_clean_audit_a_judged_version_and_its_event() {
    let home = tempfile::tempdir().unwrap();
    let (dir, json) = (home.path().join("demo"), home.path().join("figures.json"));
    let (dir, json) = (dir.to_str().unwrap(), json.to_str().unwrap());
    // A fifth of the real demo's questions: the way is the same, the interval is wider.
    let ran = pelton(&["demo", "--dir", dir, "--json", json, "--questions", "200"]);
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let figures = std::fs::read_to_string(json).unwrap_or_else(|_| panic!("no figures: {said}"));
    let figures: Value = serde_json::from_str(&figures).unwrap();
    let number = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("{name} is missing in {figures}"));

    assert_eq!(number("rows_produced"), 400.0, "{figures}");
    assert_eq!(figures["rows_ingested"], figures["rows_produced"], "{figures}");
    assert_eq!(figures["dead_letters"], 3, "{figures}");
    assert_eq!(figures["audit"], serde_json::json!({"missing": 0, "duplicate": 0}), "{figures}");
    assert!(number("holdout_prompts") >= 30.0, "{figures}");
    assert!(number("gain_low") <= number("gain") && number("gain") <= number("gain_high"), "{figures}");
    assert!((number("tuned_score") - number("base_score") - number("gain")).abs() < 1e-9, "{figures}");
    assert!(number("base_score") > 0.3, "the base answers about half of the questions: {figures}");
    assert!(number("peak_rss_bytes") < 4e9, "{figures}");
    // Only a proven gain in reward is promoted, and the status says which it was.
    let proven = figures["reward"]["gain_low"].as_f64().unwrap() > 0.0;
    let promoted = figures["promoted"].as_bool().unwrap();
    assert!(proven || !promoted, "promoted without proof: {figures}");
    assert_eq!(ran.status.success(), promoted, "{said}");

    let config = format!("{dir}/pelton.toml");
    let audit = pelton(&["audit", "--config", &config, "--json"]);
    assert!(audit.status.success(), "{audit:?}");
    let audit: Value = serde_json::from_slice(&audit.stdout).unwrap();
    assert_eq!(audit["rows"], figures["rows_produced"]);

    let folder = Path::new(dir).join("lake/models/sql-tiny/v1");
    for file in ["adapter_model.safetensors", "adapter_config.json", "report.html", "manifest.json"] {
        assert!(folder.join(file).exists(), "{file} is missing in {}", folder.display());
    }
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["name"], "sql-tiny@v1");
    assert!(manifest["window"]["sql"].as_str().unwrap().contains("inference_log"));
}

#[test]
fn a_folder_that_is_not_a_demos_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("thesis.txt"), "years of work").unwrap();
    let ran = pelton(&["demo", "--dir", home.path().to_str().unwrap()]);
    assert!(!ran.status.success());
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(said.contains("is not empty and no earlier demo's folder; choose another with --dir"), "{said}");
    assert_eq!(std::fs::read_to_string(home.path().join("thesis.txt")).unwrap(), "years of work");
}
