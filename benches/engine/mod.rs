//! What the benches of exploration and training share: a model of a real shape, the work, both sides as processes of their
//! own, and the figures.
//!
//! Weights are random: speed does not depend on what they are. Ours and the peer read the same folder, are given the same
//! prompts and numbers of tokens, and use the same number of threads. Each is a process, so that CPU time and the peak of
//! resident memory are its own.

pub mod report;

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::{Device, Tensor};
use pelton::model::{LayerConfig, ModelConfig, Options as ModelOptions, Precision, Rope, RopeScaling, Weights};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use report::Report;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

/// Says to a process of the bench that it is our side: the file with the work.
const WORK: &str = "PELTON_BENCH_WORK";

/// What both sides do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// The model's folder, as Hugging Face has it.
    pub folder: PathBuf,
    /// Token ids of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Responses a prompt.
    pub samples: usize,
    /// Tokens of each response.
    pub new_tokens: usize,
    /// Sequences computed at once.
    pub rows: usize,
    /// Updates, each on all prompts; 0 where nothing is trained.
    pub steps: usize,
    /// Rank of the adapter.
    pub rank: usize,
    pub threads: usize,
}

/// What a side took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Took {
    pub explore_seconds: f64,
    pub update_seconds: f64,
    pub cpu_seconds: f64,
    pub peak_rss_megabytes: f64,
}

/// What the command line chooses.
struct Options {
    shape: String,
    peer: bool,
    prompts: usize,
    samples: usize,
    new_tokens: usize,
    rows: usize,
    steps: usize,
    threads: usize,
}

impl Options {
    fn parse(training: bool) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (shape, peer) = ("smollm2-135m".to_owned(), true);
        let steps = if training { 3 } else { 0 };
        let mut options = Self { shape, peer, prompts: 8, samples: 8, new_tokens: 48, rows: 32, steps, threads: cores };
        let mut arguments = env::args().skip(1).filter(|a| a != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--shape" => options.shape = value,
                "--peer" => options.peer = value != "none",
                "--prompts" => options.prompts = value.parse()?,
                "--samples" => options.samples = value.parse()?,
                "--new-tokens" => options.new_tokens = value.parse()?,
                "--rows" => options.rows = value.parse()?,
                "--steps" if training => options.steps = value.parse()?,
                "--threads" => options.threads = value.parse()?,
                other => bail!(
                    "{other} is not an option; there are --shape NAME, --peer none, --prompts N, --samples N, \
                     --new-tokens N, --rows N, --steps N, --threads N"
                ),
            }
        }
        ensure!(options.rows >= options.samples, "--rows must be at least --samples");
        Ok(options)
    }
}

/// Runs our side in the process that is told to; else prepares the work, runs both sides and reports.
pub fn main(name: &str, ours: impl FnOnce(&Work) -> Result<Took>) -> Result<()> {
    if let Ok(path) = env::var(WORK) {
        let work: Work = serde_json::from_str(&fs::read_to_string(path)?)?;
        let took = ours(&work)?;
        println!("{}", serde_json::to_string(&took)?);
        return Ok(());
    }
    let options = Options::parse(name == "train")?;
    let config = shape(&options.shape)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/models").join(&options.shape);
    prepare(&folder, &config)?;
    let work = Work {
        prompts: prompts(options.prompts, config.vocab_size),
        folder,
        samples: options.samples,
        new_tokens: options.new_tokens,
        rows: options.rows,
        steps: options.steps,
        rank: 16,
        threads: options.threads,
    };
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), serde_json::to_string(&work)?)?;
    let mut report = Report::new();
    report.say(&format!(
        "{}: {:.0} M parameters, f32; {} prompts of {} tokens on average, {} responses each of {} tokens, {} rows at once, \
         {} threads",
        options.shape,
        (matrices(&config) + head(&config)) / 1e6,
        work.prompts.len(),
        work.prompts.iter().map(Vec::len).sum::<usize>() / work.prompts.len(),
        work.samples,
        work.new_tokens,
        work.rows,
        work.threads
    ));
    let gemm = gemm_flops(work.threads)?;
    report.figure("this machine's matrix product, f32", gemm / 1e9, "GFLOP/s");
    let ours = run(Command::new(env::current_exe()?)
        .env(WORK, file.path())
        .env("RAYON_NUM_THREADS", work.threads.to_string())
        // As `pelton cycle` sets it up for itself.
        .env("MIMALLOC_PURGE_DELAY", "-1"))?;
    let theirs = if options.peer { Some(peer(name, file.path(), work.threads)?) } else { None };
    figures(&mut report, name, &config, &work, &ours, theirs.as_ref(), gemm);
    report.write(name)
}

fn figures(
    report: &mut Report,
    name: &str,
    config: &ModelConfig,
    work: &Work,
    ours: &Took,
    theirs: Option<&Took>,
    gemm: f64,
) {
    let peer = if name == "train" { "TRL's GRPOTrainer" } else { "transformers' generate" };
    let responses = (work.prompts.len() * work.samples) as f64;
    let rounds = work.steps.max(1) as f64;
    let generated = responses * work.new_tokens as f64 * rounds;
    let prompts = work.prompts.iter().map(Vec::len).sum::<usize>() as f64 * rounds;
    let mut beside = |what: &str, unit, value: &dyn Fn(&Took) -> f64| match theirs {
        Some(theirs) => report.beside(what, value(ours), unit, peer, value(theirs)),
        None => report.figure(what, value(ours), unit),
    };
    beside("exploration: generated tokens", "tokens/s", &|took| generated / took.explore_seconds);
    if work.steps > 0 {
        beside("update: tokens of responses", "tokens/s", &|took| generated / took.update_seconds);
        beside("a whole cycle: tokens of responses", "tokens/s", &|took| {
            generated / (took.explore_seconds + took.update_seconds)
        });
    }
    beside("peak resident memory", "MB", &|took| took.peak_rss_megabytes);
    beside("CPU time", "s", &|took| took.cpu_seconds);
    // Two operations a weight and token; a prompt counts once, as it is computed once.
    let explored = 2.0 * (matrices(config) * (prompts + generated) + head(config) * generated);
    report.figure("exploration: of the matrix product's rate", explored / ours.explore_seconds / gemm, "");
    if work.steps > 0 {
        // Forward, and the gradient of the input; that of frozen weights is not needed.
        let updated = 4.0 * (matrices(config) * (prompts + generated) + head(config) * generated);
        report.figure("update: of the matrix product's rate", updated / ours.update_seconds / gemm, "");
    }
}

/// Shapes of models that people tune. The vocabulary counts: in small models it is most of the work.
fn shape(name: &str) -> Result<ModelConfig> {
    let (hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size) = match name {
        "sql-tiny" => (256, 704, 4, 8, 4, 32, 600),
        "smollm2-135m" => (576, 1536, 30, 9, 3, 64, 49_152),
        "smollm2-360m" => (960, 2560, 32, 15, 5, 64, 49_152),
        "llama-3.2-1b" => (2048, 8192, 16, 32, 8, 64, 128_256),
        other => bail!("{other} is no shape; there are sql-tiny, smollm2-135m, smollm2-360m and llama-3.2-1b"),
    };
    Ok(ModelConfig {
        model_type: "llama".to_owned(),
        hidden_size,
        intermediate_size,
        heads,
        kv_heads,
        head_dim,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 100_000.0, scaling: RopeScaling::None },
        local_rope: None,
        layers: vec![LayerConfig::PLAIN; layers],
        tie_word_embeddings: true,
        vocab_size,
        max_position_embeddings: 2048,
        bos_token_id: None,
        eos_token_ids: vec![0],
        options: ModelOptions::llama(head_dim),
    })
}

/// Weights in the layers' matrices.
fn matrices(config: &ModelConfig) -> f64 {
    let shapes = config.weight_shapes();
    let layers = shapes.iter().filter(|(name, shape)| name.starts_with("model.layers") && shape.len() == 2);
    layers.map(|(_, shape)| shape.iter().product::<usize>() as f64).sum()
}

fn head(config: &ModelConfig) -> f64 {
    (config.vocab_size * config.hidden_size) as f64
}

/// Writes the folder once: weights, configuration, and a tokenizer whose words are `w0`, `w1` and so on.
fn prepare(folder: &Path, config: &ModelConfig) -> Result<()> {
    if folder.join("complete").exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    Weights::random(config, 1, &Device::Cpu)?.write(folder, Precision::F32)?;
    fs::write(folder.join("config.json"), config.to_json()?)?;
    let words: Map<String, serde_json::Value> =
        (0..config.vocab_size).map(|id| (format!("w{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    let settings = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w0", "pad_token": "w0"});
    fs::write(folder.join("tokenizer_config.json"), settings.to_string())?;
    fs::write(folder.join("complete"), "")?;
    Ok(())
}

/// Prompts of 32 to 160 tokens, the same in every run.
fn prompts(count: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let prompt = |_| {
        let length = rng.random_range(32..=160);
        (0..length).map(|_| rng.random_range(1..vocabulary as u32)).collect()
    };
    (0..count).map(prompt).collect()
}

/// Operations a second of a large product.
fn gemm_flops(threads: usize) -> Result<f64> {
    const SIDE: usize = 1024;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().ok();
    let a = Tensor::rand(-1f32, 1f32, (SIDE, SIDE), &Device::Cpu)?;
    let mut best = Duration::MAX;
    for _ in 0..12 {
        let began = Instant::now();
        std::hint::black_box(a.matmul(&a)?);
        best = best.min(began.elapsed());
    }
    Ok(2.0 * (SIDE as f64).powi(3) / best.as_secs_f64())
}

/// The same work by the peer, in Python.
fn peer(name: &str, work: &Path, threads: usize) -> Result<Took> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match env::var("PELTON_BENCH_PYTHON") {
        Ok(python) => python,
        Err(_) => {
            let made = Command::new(root.join("scripts/python.sh")).arg("train").stderr(Stdio::inherit()).output()?;
            ensure!(made.status.success(), "scripts/python.sh could not make the peer's environment");
            String::from_utf8(made.stdout)?.trim().to_owned()
        }
    };
    let script = root.join("benches/peers").join(format!("{name}.py"));
    run(Command::new(python).arg(script).arg(work).env("OMP_NUM_THREADS", threads.to_string()))
}

/// Runs a side; what it took is its last line.
fn run(command: &mut Command) -> Result<Took> {
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    let last = text.lines().last().context("a side of the bench said nothing")?;
    serde_json::from_str(last).with_context(|| format!("not what a side should say last: {last}"))
}

/// CPU time and peak memory of this process.
pub fn took(explore: Duration, update: Duration) -> Result<Took> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("status has no VmHWM")?;
    let kilobytes: f64 = peak.split_whitespace().next().context("VmHWM has no value")?.parse()?;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit(')').next().context("stat has no command")?;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().unwrap_or(0)).sum();
    Ok(Took {
        explore_seconds: explore.as_secs_f64(),
        update_seconds: update.as_secs_f64(),
        cpu_seconds: ticks as f64 / 100.0,
        peak_rss_megabytes: kilobytes * 1024.0 / 1e6,
    })
}
