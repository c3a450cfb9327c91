//! Runs model-written SQL in isolation: read-only, no files, bounded in time, memory and rows, panics caught.
//!
//! Promises that no text harms the process: each runs on a thread of its own pool with a large stack, in a session that
//! knows the database's tables and nothing else, with a memory pool, no spill files and no object store; a query past
//! its time is cancelled, one that does not react is abandoned with its thread, and after too many of those the rest is
//! refused. The same text gives the same outcome, from a cache. DataFusion itself panics on some texts, so a panic is an
//! outcome like any other. Never writes anything.

use super::database::Database;
use super::outcome::{Outcome, digest};
use super::statement;
use datafusion::arrow::array::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result as FusionResult};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use object_store::ObjectStore;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

/// The name of the threads that run SQL, by which their panics are kept off the terminal.
const THREAD: &str = "isolated-sql";
/// Functions that make much out of little (`repeat('a', 2000000000)`) before any limit of ours can see it.
const AMPLIFIERS: &[&str] = &[
    "repeat",
    "lpad",
    "rpad",
    "space",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "generate_series",
    "range",
    "list_range",
    "gen_series",
];

/// What one query may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time; default 2 s, a hundred times what a shop's query takes.
    pub time: Duration,
    /// Memory of hash tables and sorts; default 128 MiB.
    pub memory_bytes_max: usize,
    /// Rows of the answer; default 5,000: more is no answer to a question.
    pub rows_max: usize,
    /// Length of the text; default 4 KiB, so that no nesting exhausts the stack.
    pub sql_bytes_max: usize,
    /// Threads; default the machine's.
    pub threads: usize,
    /// Threads that may be abandoned before everything else is refused; default 4.
    pub abandoned_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(2),
            memory_bytes_max: 128 << 20,
            rows_max: 5_000,
            sql_bytes_max: 4 << 10,
            threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            abandoned_max: 4,
        }
    }
}

/// Runs SQL over one database.
#[derive(Debug)]
pub struct Executor {
    shared: Arc<Shared>,
    cache: Mutex<HashMap<String, Arc<Outcome>>>,
    abandoned: Mutex<usize>,
}

/// What the threads need.
#[derive(Debug)]
struct Shared {
    database: Arc<Database>,
    functions: Vec<ScalarUDF>,
    limits: Limits,
}

/// A worker's news: its number, the job's number, what became of it.
type Report = (usize, usize, Outcome);

impl Executor {
    /// An executor with DataFusion's functions.
    #[must_use]
    pub fn new(database: Arc<Database>, limits: Limits) -> Self {
        Self::with_functions(database, limits, Vec::new())
    }

    /// An executor that knows further functions.
    #[must_use]
    pub fn with_functions(database: Arc<Database>, limits: Limits, functions: Vec<ScalarUDF>) -> Self {
        silence_panics_of_workers();
        let shared = Arc::new(Shared { database, functions, limits });
        Self { shared, cache: Mutex::default(), abandoned: Mutex::default() }
    }

    /// The database that it reads.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.shared.database
    }

    /// The limits that it keeps.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Runs one text.
    #[must_use]
    pub fn run(&self, sql: &str) -> Arc<Outcome> {
        self.run_all(&[sql]).pop().expect("one text has one outcome")
    }

    /// Runs texts in parallel; the outcomes stand in the texts' order. Equal texts run once.
    #[must_use]
    pub fn run_all(&self, texts: &[&str]) -> Vec<Arc<Outcome>> {
        let fresh = self.not_cached(texts);
        if !fresh.is_empty() {
            let outcomes = Pool::new(&self.shared, &self.abandoned, &fresh).run();
            let mut cache = self.cache.lock().expect("no holder of the cache panics");
            cache.extend(fresh.into_iter().zip(outcomes.into_iter().map(Arc::new)));
        }
        let cache = self.cache.lock().expect("no holder of the cache panics");
        texts.iter().map(|text| Arc::clone(&cache[*text])).collect()
    }

    fn not_cached(&self, texts: &[&str]) -> Vec<String> {
        let cache = self.cache.lock().expect("no holder of the cache panics");
        let mut seen = HashSet::new();
        let fresh = texts.iter().filter(|text| !cache.contains_key(**text) && seen.insert(**text));
        fresh.map(|text| (*text).to_owned()).collect()
    }
}

/// One run over many texts.
struct Pool<'a> {
    shared: &'a Arc<Shared>,
    abandoned: &'a Mutex<usize>,
    texts: &'a [String],
    outcomes: Vec<Option<Outcome>>,
    next: usize,
    workers: HashMap<usize, Worker>,
    spawned: usize,
    report: (Sender<Report>, Receiver<Report>),
}

struct Worker {
    jobs: Sender<(usize, String)>,
    job: usize,
    since: Instant,
}

impl<'a> Pool<'a> {
    fn new(shared: &'a Arc<Shared>, abandoned: &'a Mutex<usize>, texts: &'a [String]) -> Self {
        let outcomes = vec![None; texts.len()];
        Self { shared, abandoned, texts, outcomes, next: 0, workers: HashMap::new(), spawned: 0, report: channel() }
    }

    fn run(mut self) -> Vec<Outcome> {
        for _ in 0..self.shared.limits.threads.clamp(1, self.texts.len()) {
            self.spawn();
        }
        while !self.workers.is_empty() {
            match self.report.1.recv_timeout(self.until_overdue()) {
                Ok((worker, job, outcome)) if self.workers.contains_key(&worker) => {
                    self.outcomes[job] = Some(outcome);
                    self.assign(worker);
                }
                // An abandoned worker came back after all; its outcome stands already.
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => self.abandon(),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the pool holds a sender itself"),
            }
        }
        let refused = || Outcome::Failed("too many queries before it did not stop in time".to_owned());
        self.outcomes.into_iter().map(|o| o.unwrap_or_else(refused)).collect()
    }

    /// Twice the time limit: a query that reacts is cancelled at the limit and reports well before this.
    fn patience(&self) -> Duration {
        self.shared.limits.time * 2
    }

    fn until_overdue(&self) -> Duration {
        let oldest = self.workers.values().map(|w| w.since).min().expect("a worker is at work");
        (oldest + self.patience()).saturating_duration_since(Instant::now())
    }

    fn spawn(&mut self) {
        let (jobs, inbox) = channel();
        let (shared, report, number) = (Arc::clone(self.shared), self.report.0.clone(), self.spawned);
        self.spawned += 1;
        // A large stack: the planner recurses over expressions, and an overflow cannot be caught.
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).stack_size(64 << 20);
        thread.spawn(move || work(&shared, number, &inbox, &report)).expect("the machine can start a thread");
        self.workers.insert(number, Worker { jobs, job: 0, since: Instant::now() });
        self.assign(number);
    }

    /// Gives the next text to a worker, or lets it end.
    fn assign(&mut self, number: usize) {
        let Some(text) = self.texts.get(self.next) else {
            self.workers.remove(&number);
            return;
        };
        let worker = self.workers.get_mut(&number).expect("only workers of the pool are assigned");
        (worker.job, worker.since) = (self.next, Instant::now());
        worker.jobs.send((self.next, text.clone())).expect("a worker lives as long as its sender");
        self.next += 1;
    }

    fn abandon(&mut self) {
        let patience = self.patience();
        let overdue: Vec<_> =
            self.workers.iter().filter(|(_, w)| w.since.elapsed() >= patience).map(|(&n, _)| n).collect();
        for number in overdue {
            let worker = self.workers.remove(&number).expect("the number was just listed");
            self.outcomes[worker.job] =
                Some(Outcome::Failed(format!("did not stop within {} ms", patience.as_millis())));
            let mut abandoned = self.abandoned.lock().expect("no holder of the count panics");
            *abandoned += 1;
            let may_replace = *abandoned <= self.shared.limits.abandoned_max && self.next < self.texts.len();
            drop(abandoned);
            if may_replace {
                self.spawn();
            }
        }
    }
}

/// A worker's life: take a text, report its outcome, until the pool lets go.
fn work(shared: &Shared, number: usize, inbox: &Receiver<(usize, String)>, report: &Sender<Report>) {
    let mut session = None;
    while let Ok((job, text)) = inbox.recv() {
        let outcome = catch_unwind(AssertUnwindSafe(|| attempt(shared, &mut session, &text)));
        let outcome = outcome.unwrap_or_else(|panic| {
            // Whatever the panic left half done is dropped with the session.
            session = None;
            Outcome::Failed(format!("the query engine panicked: {}", panic_text(panic.as_ref())))
        });
        if report.send((number, job, outcome)).is_err() {
            return;
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let plain = panic.downcast_ref::<&str>().copied();
    plain.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

struct Session {
    context: SessionContext,
    runtime: tokio::runtime::Runtime,
}

fn attempt(shared: &Shared, session: &mut Option<Session>, text: &str) -> Outcome {
    let statement = match statement::read(text, shared.limits.sql_bytes_max) {
        Ok(statement) => statement,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    let session = match session {
        Some(session) => session,
        none => match open(shared) {
            Ok(fresh) => none.insert(fresh),
            Err(error) => return Outcome::Failed(error.to_string()),
        },
    };
    let limits = shared.limits;
    let result = session
        .runtime
        .block_on(async { tokio::time::timeout(limits.time, answer(&session.context, text, limits)).await });
    match result {
        Err(_) => Outcome::Failed(format!("did not end within {} ms", limits.time.as_millis())),
        Ok(Err(error)) => Outcome::Failed(error.strip_backtrace()),
        Ok(Ok(batches)) => match digest(&batches, statement.ordered) {
            Ok(answer) => Outcome::Answered(answer),
            Err(error) => Outcome::Failed(error.to_string()),
        },
    }
}

async fn answer(context: &SessionContext, text: &str, limits: Limits) -> FusionResult<Vec<RecordBatch>> {
    // The parser has refused all of these; the plan is checked as well, since it is what runs.
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let mut stream = context.sql_with_options(text, read_only).await?.execute_stream().await?;
    let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
    while let Some(batch) = stream.next().await.transpose()? {
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
        if rows > limits.rows_max || bytes > limits.memory_bytes_max {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "the answer has more than {} rows or {} bytes",
                limits.rows_max, limits.memory_bytes_max
            )));
        }
        batches.push(batch);
    }
    Ok(batches)
}

fn open(shared: &Shared) -> FusionResult<Session> {
    let environment = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(shared.limits.memory_bytes_max)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .with_object_store_registry(Arc::new(NoStores))
        .build_arc()?;
    // One partition: the rows of an unordered query come in one order, and the pool itself is parallel.
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(1024);
    config.options_mut().execution.enable_recursive_ctes = false;
    let context = SessionContext::new_with_config_rt(config, environment);
    for name in AMPLIFIERS {
        context.deregister_udf(name);
        context.deregister_udtf(name);
    }
    for function in &shared.functions {
        context.register_udf(function.clone());
    }
    for (name, table) in shared.database.tables() {
        let memory = MemTable::try_new(Arc::clone(&table.schema), vec![table.batches.clone()])?;
        context.register_table(name.as_str(), Arc::new(memory))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Ok(Session { context, runtime })
}

/// No object store at all, the local disk included.
#[derive(Debug)]
struct NoStores;

impl ObjectStoreRegistry for NoStores {
    fn register_store(&self, _: &url::Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &url::Url) -> FusionResult<Arc<dyn ObjectStore>> {
        Err(DataFusionError::Plan(format!("{url} is out of reach: model-written SQL reads no files")))
    }
}

/// A caught panic of a worker is an outcome, not news for the terminal; all other panics print as before.
fn silence_panics_of_workers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(THREAD) {
                before(info);
            }
        }));
    });
}
