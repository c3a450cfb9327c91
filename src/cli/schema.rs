//! `pelton schema`: the JSON Schemas of what crosses Pelton's borders.

use anyhow::{Result, bail};
use std::process::ExitCode;

/// Arguments of `pelton schema`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The schema to print; without it their names are listed
    name: Option<String>,
}

/// Name, what it describes, its text.
const SCHEMAS: &[(&str, &str, fn() -> String)] = &[("config", "the configuration file, version 1", config_schema)];

/// Printed from the types, so that it cannot lag behind them; a test holds `schemas/config.v1.json` to it.
fn config_schema() -> String {
    format!("{:#}\n", crate::config::schema_json())
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let Some(name) = &args.name else {
        for (name, what, _) in SCHEMAS {
            println!("{name:<16}{what}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some((_, _, text)) = SCHEMAS.iter().find(|(n, _, _)| n == name) else {
        let names: Vec<&str> = SCHEMAS.iter().map(|(n, _, _)| *n).collect();
        bail!("there is no schema `{name}`; there is {}", names.join(", "));
    };
    print!("{}", text());
    Ok(ExitCode::SUCCESS)
}
