//! `pelton eval`: what a model or version is worth on a file of prompts, by any scorers.

use super::cycle::Bars;
use super::print;
use crate::config::{self, Config, Score};
use crate::daemon::eval::{self, Answerer, Asked, Evaluation, Run, Sampling};
use crate::daemon::{self, cycle::Progress as CycleProgress};
use crate::domain::{ModelName, VersionRef};
use crate::evaluate::interval_text;
use crate::model::{Lora, Model};
use crate::publish::Registry;
use crate::tao::score::Composition;
use crate::tao::{Progress, Watch};
use anyhow::{Context as _, Result, bail};
use candle_core::Device;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

/// Arguments of `pelton eval`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each line of PROMPTS is a JSON object with `prompt` (and `system`) or `messages`, and where there is one a\n\
                        `reference`, a `document`, a `schema`, an `id`. SCORERS is a TOML file of the form of a model's [score]\n\
                        section. Without it the configured model's are taken, or for prompts with references the exact answer.\n\
                        \n\
                        pelton eval prompts.jsonl --model models/sql-tiny --scorers scorers.toml --output base.json\n\
                        pelton eval prompts.jsonl --version sql-tiny@v3 --config pelton.toml --compare base.json\n\
                        pelton eval --compare base.json --compare tuned.json"
)]
pub struct Args {
    /// The prompts, as JSON lines; may be left out where two runs are compared
    prompts: Option<PathBuf>,
    /// A model's folder or .gguf file
    #[arg(long, value_name = "PATH", group = "who")]
    model: Option<PathBuf>,
    /// An adapter's folder for --model
    #[arg(long, value_name = "DIR", requires = "model")]
    adapter: Option<PathBuf>,
    /// A published version, such as support-sql@v3; a model's name alone means its champion, MODEL@base its base
    #[arg(long, value_name = "VERSION", group = "who")]
    version: Option<String>,
    /// The base of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1
    #[arg(long, value_name = "URL", group = "who", requires = "endpoint_model")]
    endpoint: Option<String>,
    /// The model's name at --endpoint
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    endpoint_model: Option<String>,
    /// The environment variable with the key for --endpoint
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    api_key_env: Option<String>,
    /// The prompts bring their answers (`answer`): only judge them
    #[arg(long, group = "who")]
    answered: bool,
    /// The scorers (TOML)
    #[arg(long, value_name = "FILE")]
    scorers: Option<PathBuf>,
    /// The configuration (TOML), for --version
    #[arg(long, value_name = "FILE", default_value = "configs/pelton.toml", env = "PELTON_CONFIG")]
    config: PathBuf,
    /// The longest answer in tokens
    #[arg(long, default_value_t = 256)]
    tokens_max: usize,
    /// 0 takes the most probable token each time
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Answers a prompt; more than one need a temperature
    #[arg(long, default_value_t = 1)]
    samples: u32,
    /// Calls under way at once, for --endpoint
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Sequences that are generated together
    #[arg(long, default_value_t = 32)]
    batch_rows: usize,
    /// Only the first so many prompts
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The seed of sampling and intervals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The confidence of intervals
    #[arg(long, default_value_t = 0.95)]
    confidence: f64,
    /// Write figures and every answer here, as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compare with an earlier run's --output, prompt by prompt; twice: those two, without a new run
    #[arg(long, value_name = "FILE")]
    compare: Vec<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    if let [before, after] = args.compare.as_slice() {
        if args.prompts.is_some() {
            bail!("two runs are compared without a new one; leave the prompts out, or one --compare");
        }
        return compare(&args, &Run::read(before)?, &Run::read(after)?);
    }
    let path = args.prompts.as_deref().context("name the file of prompts, or two runs by --compare A --compare B")?;
    check(&args)?;
    let before = args.compare.first().map(|path| Run::read(path)).transpose()?;
    let mut prompts = if args.answered { eval::read_answers(path)? } else { eval::read_prompts(path)? };
    prompts.truncate(args.limit.unwrap_or(usize::MAX));
    let configured = args.version.as_ref().map(|_| config::load(&args.config)).transpose()?;
    let scorers = scorers(&args, configured.as_ref(), &prompts)?;
    let answerer = answerer(&args, configured.as_ref(), path).await?;
    let sampling = Sampling {
        samples: args.samples,
        temperature: args.temperature,
        tokens_max: args.tokens_max,
        batch_rows: args.batch_rows,
    };
    let (confidence, seed) = (args.confidence, args.seed);
    let evaluation =
        Evaluation { answerer: &answerer, prompts: &prompts, scorers: &scorers, sampling: &sampling, confidence, seed };
    let bars = Bars::default();
    let report = |p: Progress| bars.show(&CycleProgress { step: p.what, done: p.done, total: p.total });
    let cancelled = AtomicBool::new(false);
    let run = tokio::task::block_in_place(|| eval::evaluate(&evaluation, &Watch::new(&report, &cancelled)))?;
    bars.finish();
    if let Some(output) = &args.output {
        let text = serde_json::to_string_pretty(&run)?;
        std::fs::write(output, text + "\n").with_context(|| format!("cannot write {}", output.display()))?;
    }
    match before {
        Some(before) => {
            if !args.json {
                print_run(&run);
                println!();
            }
            compare(&args, &before, &run)
        }
        None if args.json => {
            println!("{}", serde_json::to_string(&run)?);
            Ok(ExitCode::SUCCESS)
        }
        None => {
            print_run(&run);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(args: &Args) -> Result<()> {
    if args.model.is_none() && args.version.is_none() && args.endpoint.is_none() && !args.answered {
        bail!("who answers? Use --model PATH, --version NAME, --endpoint URL or --answered");
    }
    if args.samples == 0 || args.tokens_max == 0 {
        bail!("--samples and --tokens-max must be at least 1");
    }
    if args.samples > 1 && args.temperature <= 0.0 && !args.answered {
        bail!("{} samples at temperature 0 would all be the same; use --temperature 1", args.samples);
    }
    if !(0.5..1.0).contains(&args.confidence) {
        bail!("--confidence {} is not from 0.5 to below 1, such as 0.95", args.confidence);
    }
    Ok(())
}

fn scorers(args: &Args, configured: Option<&Config>, prompts: &[Asked]) -> Result<Composition> {
    let beside = |path: &Path, file: &str| path.parent().unwrap_or(Path::new(".")).join(file);
    if let Some(path) = &args.scorers {
        let score = config::load_score(path)?;
        return Ok(Composition::open(&score, &|file| beside(path, file), &[])?);
    }
    if let (Some(config), Some(version)) = (configured, &args.version) {
        let name = version.split('@').next().unwrap_or_default();
        let model = config.models.iter().find(|(n, _)| n.as_str() == name).map(|(_, model)| model);
        let model = model.with_context(|| format!("{} has no model `{name}`", config.path.display()))?;
        let score = model.gate.score.as_ref().unwrap_or(&model.score);
        return Ok(Composition::open(score, &|file| config.resolve(file), &[])?);
    }
    if prompts.iter().all(|p| p.reference.is_some()) {
        let exact: Score = toml::from_str("answer = {}").context("the built-in scorer")?;
        return Ok(Composition::open(&exact, &|file| Path::new(file).to_owned(), &[])?);
    }
    bail!("who judges? Use --scorers FILE; without it every prompt must carry a `reference`")
}

async fn answerer(args: &Args, configured: Option<&Config>, prompts: &Path) -> Result<Answerer> {
    if args.answered {
        return Ok(Answerer::Given(prompts.display().to_string()));
    }
    if let (Some(url), Some(model)) = (&args.endpoint, &args.endpoint_model) {
        let settings = config::Endpoint {
            api_key_env: args.api_key_env.clone(),
            concurrency: args.concurrency.max(1),
            ..config::Endpoint::new(url, model)
        };
        return Answerer::endpoint(&settings);
    }
    if let Some(path) = &args.model {
        let model = tokio::task::block_in_place(|| Model::load(path, &Device::Cpu))?;
        let load = |folder: &PathBuf| Lora::load(folder, model.config(), &Device::Cpu);
        let adapter = args.adapter.as_ref().map(load).transpose()?;
        let adapted = args.adapter.as_ref().map(|a| format!(" with {}", a.display())).unwrap_or_default();
        let name = format!("{}{adapted}", path.display());
        return Ok(Answerer::Local { name, model: Box::new(model), adapter });
    }
    let config = configured.context("--version needs a configuration")?;
    published(config, args.version.as_deref().unwrap_or_default()).await
}

/// A version of the registry, its files checked against their hashes.
async fn published(config: &Config, version: &str) -> Result<Answerer> {
    let (name, number) = version.split_once('@').unwrap_or((version, "champion"));
    let name: ModelName = name.parse()?;
    let settings = config.models.get(&name).with_context(|| format!("there is no model `{name}`"))?;
    let model = tokio::task::block_in_place(|| Model::load(&config.resolve(&settings.base), &Device::Cpu))?;
    if number == "base" {
        return Ok(Answerer::Local { name: format!("{name} (base)"), model: Box::new(model), adapter: None });
    }
    let lake = daemon::open_lake(config).await?;
    let versions = lake.versions(&name).await?;
    let reference: VersionRef = if number == "champion" {
        let champion = daemon::champion_of(&versions);
        champion
            .map(|v| v.reference.clone())
            .with_context(|| format!("{name} has no promoted version; try {name}@base"))?
    } else {
        version.parse()?
    };
    if !versions.iter().any(|v| v.reference == reference) {
        bail!("there is no version {reference}; `pelton model list` shows those that are");
    }
    let (store, prefix) = daemon::store_of(&lake);
    let files = Registry::new(store, &prefix).files(&reference).await?;
    let folder = std::env::temp_dir().join(format!("pelton-eval-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&folder)?;
    for (file, bytes) in files {
        std::fs::write(folder.join(file), bytes)?;
    }
    let adapter = Lora::load(&folder, model.config(), &Device::Cpu);
    std::fs::remove_dir_all(&folder)?;
    Ok(Answerer::Local { name: reference.to_string(), model: Box::new(model), adapter: Some(adapter?) })
}

/// `reward` and `correct` first, then the scorers.
fn order(name: &str) -> (u8, &str) {
    match name {
        "reward" => (0, name),
        "correct" => (1, name),
        _ => (2, name),
    }
}

fn print_run(run: &Run) {
    let Run { model, prompts, unanswered, truncated, seconds, tokens, confidence, .. } = run;
    #[expect(clippy::cast_precision_loss, reason = "tokens are counted in millions")]
    let rate = if *seconds > 0.0 { *tokens as f64 / seconds } else { 0.0 };
    println!(
        "{model}: {prompts} prompts, {unanswered} unanswered, {truncated} cut off, {seconds:.1} s, {rate:.0} tokens/s"
    );
    if let Some(problem) = run.rows.iter().find_map(|r| r.problem.as_ref()) {
        println!("a prompt without an answer: {problem}");
    }
    let mut names: Vec<&String> = run.scores.keys().collect();
    names.sort_by_key(|name| order(name));
    let row = |name: &&String| {
        let s = &run.scores[*name];
        let interval = format!("[{:.3}, {:.3}]", s.low, s.high);
        vec![(*name).clone(), format!("{:.3}", s.mean), interval, s.prompts.to_string()]
    };
    let interval = format!("{:.0} % interval", confidence * 100.0);
    print::table(&["score", "mean", &interval, "prompts"], names.iter().map(row).collect());
}

fn compare(args: &Args, before: &Run, after: &Run) -> Result<ExitCode> {
    let gains = eval::compare(before, after, args.seed)?;
    if args.json {
        let all: serde_json::Map<String, serde_json::Value> = gains
            .iter()
            .map(|(name, g)| {
                let value = serde_json::json!({
                    "before": g.before, "after": g.after, "gain": g.gain.mean, "low": g.gain.low, "high": g.gain.high,
                    "prompts": g.prompts,
                });
                (name.clone(), value)
            })
            .collect();
        println!("{}", serde_json::json!({"before": before.model, "after": after.model, "gains": all}));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} against {}, prompt by prompt", after.model, before.model);
    let mut names: Vec<&String> = gains.keys().collect();
    names.sort_by_key(|name| order(name));
    let row = |name: &&String| {
        let g = &gains[*name];
        let means = [g.before, g.after].map(|m| format!("{m:.3}"));
        let [old, new] = means;
        vec![(*name).clone(), old, new, interval_text(g.gain), g.prompts.to_string()]
    };
    print::table(&["score", "before", "after", "gain", "prompts"], names.iter().map(row).collect());
    Ok(ExitCode::SUCCESS)
}
