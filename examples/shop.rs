//! Writes the demo's shop as Parquet files, one a table: `cargo run --release --example shop -- FOLDER`.
//!
//! `configs/pelton.toml` scores SQL on it; any other folder of Parquet files serves as well.

use anyhow::Context as _;
use pelton::demo::shop::{SHOP_SEED, Shop};
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).context("usage: shop FOLDER")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Shop::generate(SHOP_SEED).write_parquet(&folder)?;
    println!("wrote the shop's tables to {}", folder.display());
    Ok(())
}
