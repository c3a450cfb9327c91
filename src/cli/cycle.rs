//! `pelton cycle`: turns of the wheel, by hand and as the daemon's child; what they are doing and did.

use super::{ConfigFile, cycle_show};
use crate::config::Config;
use crate::daemon::cycle::{self, Progress, Stop};
use crate::daemon::scheduler::SCHEDULER;
use crate::domain::{CycleId, CycleState, ModelName, Trigger};
use crate::lake::{Fence, Lake};
use crate::{runtime, telemetry};
use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use std::sync::Mutex;

/// Arguments of `pelton cycle`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Turn the wheel once: collect, explore, score, optimize, evaluate, gate, register, publish
    Run(RunArgs),
    /// Go on with a cycle that was interrupted or waits for its retry, from the step where it stopped
    Resume(ResumeArgs),
    /// Try a parked or cancelled cycle again; what it has computed is kept
    Retry(RetryArgs),
    /// End a cycle wherever it runs, within seconds; its prompts stay fresh for the next
    Cancel(CancelArgs),
    /// List the cycles, the newest last
    List(cycle_show::ListArgs),
    /// Show each state that one cycle came to, with its figures
    Show(cycle_show::ShowArgs),
    /// Print what a cycle's processes wrote, as the daemon kept it
    Logs(cycle_show::LogsArgs),
}

/// What `run`, `resume` and `retry` exit with.
const STATUSES: &str = "Exits with\n  \
    0 where the cycle ended with a version (promoted or rejected)\n  \
    1 where it failed\n  \
    2 where its window had too few prompts\n  \
    3 where it was cancelled\n  \
    4 where another process or scheduler has taken it over\n  \
    5 where it was interrupted (SIGTERM, Ctrl-C): it goes on with `pelton cycle resume`";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The model to tune; may be left out where the configuration has one
    #[arg(long)]
    model: Option<String>,
    /// Leave it to the daemon that starts cycles, and only print its id
    #[arg(long)]
    queue: bool,
    /// A cycle that was requested already, as the daemon does; it goes on where it stopped
    #[arg(long, hide = true)]
    id: Option<String>,
    /// The scheduler's fencing token: a cycle of a scheduler that was replaced writes nothing
    #[arg(long, hide = true)]
    token: Option<i64>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// End when standard input does: it is the daemon's end of a pipe, and a cycle must not outlive its daemon
    #[arg(long, hide = true)]
    supervised: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
struct ResumeArgs {
    /// The cycle
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    /// The scheduler's fencing token, where a launcher was given one (`{token}`)
    #[arg(long)]
    token: Option<i64>,
    /// Take it over from a process that seems to be at work; that one stops, and can write nothing more
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
struct RetryArgs {
    /// The cycle
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Leave it to the daemon that starts cycles
    #[arg(long)]
    queue: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct CancelArgs {
    /// The cycle
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Why, for the record
    #[arg(long, default_value = "by hand")]
    reason: String,
    /// Print how it stands then as JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Run(args) => begin(args).await,
        Command::Resume(args) => resume(args).await,
        Command::Retry(args) => retry(args).await,
        Command::Cancel(args) => cancel(args).await,
        Command::List(args) => cycle_show::list(args).await,
        Command::Show(args) => cycle_show::show(args).await,
        Command::Logs(args) => cycle_show::logs(args).await,
    }
}

async fn begin(args: RunArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let trigger = if args.queue { Trigger::Queued } else { Trigger::Hand };
    let (id, model) = match &args.id {
        Some(id) => requested(&lake, id).await?,
        None => {
            let model = choose_model(&config, args.model.as_deref())?;
            (cycle::request(&lake, &model, trigger).await?, model)
        }
    };
    if args.queue {
        print_id(&id, args.json);
        return Ok(ExitCode::SUCCESS);
    }
    if args.supervised {
        end_with_standard_input()?;
    }
    turn(&config, &lake, (&id, &model), args.token, args.json).await
}

fn print_id(id: &CycleId, as_json: bool) {
    if as_json {
        println!("{}", serde_json::json!({"cycle": id.as_str()}));
    } else {
        println!("{id}");
    }
}

async fn resume(args: ResumeArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let (id, model) = requested(&lake, &args.id).await?;
    if let Some(running) = cycle::Running::of(&lake, &id).await?.filter(|_| !args.force) {
        bail!("process {} on {} is at work on {id}; --force takes it over", running.pid, running.host);
    }
    turn(&config, &lake, (&id, &model), args.token, args.json).await
}

async fn retry(args: RetryArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let trigger = if args.queue { Trigger::Queued } else { Trigger::Hand };
    let standing = cycle::reopen(&lake, &args.id.parse()?, trigger).await?;
    if args.queue {
        print_id(&standing.cycle, args.json);
        return Ok(ExitCode::SUCCESS);
    }
    turn(&config, &lake, (&standing.cycle, &standing.model), None, args.json).await
}

async fn cancel(args: CancelArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let standing = cycle::cancel(&lake, &args.id.parse()?, &args.reason).await?;
    if args.json {
        println!("{}", cycle_show::summary(&standing, None));
    } else {
        println!("{}: {}", standing.cycle, standing.state);
    }
    Ok(if standing.state == CycleState::Cancelled { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a cycle in this process.
async fn turn(
    config: &Config,
    lake: &Lake,
    (id, model): (&CycleId, &ModelName),
    token: Option<i64>,
    as_json: bool,
) -> Result<ExitCode> {
    telemetry::install(&config.telemetry).map_err(anyhow::Error::msg)?;
    let shutdown = runtime::on_signal()?;
    let bars = Bars::default();
    let watch = |progress: Progress| bars.show(&progress);
    let scheduler = token.map(|token| Fence { name: SCHEDULER.to_owned(), token });
    let supervised = scheduler.is_some();
    let exit = Some((|code| std::process::exit(i32::from(code))) as fn(u8));
    let job = cycle::Job { watch: &watch, scheduler, exit, ..cycle::Job::new(config, lake, model, id) };
    let ended = cycle::run(&job, &shutdown).await;
    bars.finish();
    let outcome = match ended {
        Ok(outcome) => outcome,
        Err(error) => {
            if let Some(stop) = error.downcast_ref::<Stop>() {
                eprintln!("pelton: {id}: {stop}");
                return Ok(ExitCode::from(stop.exit_code()));
            }
            // A scheduler tries it again; a person who ran it by hand reads the error now.
            if !supervised {
                // What went wrong first is what they need to read, also where the store has gone away meanwhile.
                if let Err(parked) = cycle::park_if_spent(lake, id, 0, &[]).await {
                    tracing::warn!(error = format!("{parked:#}"), "the cycle could not be parked");
                }
            }
            return Err(error);
        }
    };
    if as_json {
        println!("{}", outcome.to_json());
    } else {
        println!("{outcome}");
    }
    Ok(match outcome.state {
        CycleState::Skipped => ExitCode::from(2),
        CycleState::Cancelled => ExitCode::from(Stop::Cancelled.exit_code()),
        _ => ExitCode::SUCCESS,
    })
}

async fn requested(lake: &Lake, id: &str) -> Result<(CycleId, ModelName)> {
    let standing = cycle::standing(lake, &id.parse()?).await?;
    if standing.state.is_end() {
        bail!("cycle {id} has ended: {}", standing.state);
    }
    Ok((standing.cycle, standing.model))
}

/// A daemon that was killed cannot say so, but its end of the pipe closes. The cycle then ends as by `kill -9`, which it
/// survives: the next daemon runs it on, and must not find it running.
fn end_with_standard_input() -> Result<()> {
    let watch = || {
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        std::process::exit(1);
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(watch)?;
    Ok(())
}

/// The model that was asked for, or the only one.
pub(super) fn choose_model(config: &Config, asked: Option<&str>) -> Result<ModelName> {
    let known: Vec<&str> = config.models.keys().map(ModelName::as_str).collect();
    match (asked, known.as_slice()) {
        (Some(name), _) if known.contains(&name) => Ok(name.parse()?),
        (Some(name), _) => bail!("the configuration has no model `{name}`; it has {}", known.join(", ")),
        (None, [only]) => Ok(only.parse()?),
        (None, []) => bail!("the configuration has no model; add [models.NAME]"),
        (None, _) => bail!("name one with --model: {}", known.join(", ")),
    }
}

/// One progress bar a step, where standard error is a terminal.
#[derive(Default)]
pub struct Bars {
    current: Mutex<Option<(&'static str, ProgressBar)>>,
}

impl Bars {
    /// Shows how far a step is; another step than the last begins a bar of its own.
    pub fn show(&self, progress: &Progress) {
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if current.as_ref().is_none_or(|(step, _)| *step != progress.step) {
            if let Some((_, bar)) = current.take() {
                bar.finish();
            }
            *current = Some((progress.step, bar(progress)));
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_position(progress.done as u64);
        }
    }

    /// Ends the last bar.
    pub fn finish(&self) {
        if let Some((_, bar)) = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            bar.finish();
        }
    }
}

fn bar(progress: &Progress) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>11} [{bar:32}] {pos}/{len} {elapsed}, {eta} to go")
        .expect("the template is valid; it is a constant");
    let bar = ProgressBar::new(progress.total as u64).with_style(style.progress_chars("=> "));
    bar.set_prefix(progress.step);
    bar
}
