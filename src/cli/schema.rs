//! `pelton schema`: the JSON Schemas of what crosses Pelton's borders.

use crate::{codec, config};
use anyhow::{Result, bail};
use std::process::ExitCode;

/// Arguments of `pelton schema`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The schema to print; without it their names are listed
    name: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    // The configuration's is printed from its types, so that it cannot lag behind them; a test holds the file to it.
    let mut schemas = vec![("config.v1", format!("{:#}\n", config::schema_json()))];
    schemas.extend(codec::schema::ALL.iter().map(|s| (s.file, s.json.to_owned())));
    let Some(name) = &args.name else {
        schemas.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    };
    let Some((_, text)) = schemas.iter().find(|(n, _)| n == name) else {
        let names: Vec<&str> = schemas.iter().map(|(n, _)| *n).collect();
        bail!("there is no schema `{name}`; there is {}", names.join(", "));
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}
