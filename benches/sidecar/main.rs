//! What the sidecar adds: the same load directly and through it, in pairs, in one run, its log going to a real Kafka.
//!
//! ```sh
//! PELTON_BENCH_KAFKA=127.0.0.1:9092 cargo bench --bench sidecar
//! ```
//!
//! The upstream is a stub of constant latency in a process of its own; the load comes from this process, on connections that
//! are kept alive. At a rate each request has its time; its latency counts from that time, not from when it could be sent, so
//! that a stall shows in all requests that it delayed. At saturation each connection asks again as soon as it was answered.
//! `PELTON_BENCH_PEER=COMMAND` starts another proxy beside (`{port}` and `{upstream}` are put in) and measures it at the
//! lowest rate. `PELTON_BENCH_SECONDS` is the length of one measurement (8), `PELTON_BENCH_ROUNDS` how many pairs (3).
//! The figures go to `target/bench/sidecar.json`.

mod load;
#[path = "../engine/report.rs"]
mod report;
mod stub;

use load::{Load, Measured};
use serde_json::{Value, json};
use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RATES: [u32; 2] = [1_000, 5_000];
const CONNECTIONS: usize = 64;
const STREAMS: usize = 50;
const PEER_RATE: u32 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--stub") {
        let port = arguments.next().ok_or("--stub PORT")?.parse()?;
        return runtime()?.block_on(stub::serve(port)).map_err(Into::into);
    }
    let measured = runtime()?.block_on(run())?;
    println!("{measured:#}");
    tell(&measured)?;
    Ok(())
}

/// The figures of a run, each beside what it is to be compared with.
fn tell(measured: &Value) -> Result<(), Box<dyn Error>> {
    let mut report = report::Report::new();
    let of = |path: &str| measured.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    for load in ["rate_1000", "rate_5000", "saturation"] {
        for share in ["p50", "p99", "p99.9"] {
            let at = |way: &str| of(&format!("/{load}/{way}/{share}_ms"));
            report.beside(&format!("{load}: latency {share}"), at("through"), "ms", "direct", at("direct"));
            report.figure(&format!("{load}: added {share}"), of(&format!("/{load}/added_ms/{share}")), "ms");
        }
        let rate = |way: &str| of(&format!("/{load}/{way}/requests_per_second"));
        report.beside(&format!("{load}: answered"), rate("through"), "requests/s", "direct", rate("direct"));
        let cpu = of(&format!("/{load}/cpu_microseconds_per_request"));
        report.figure(&format!("{load}: CPU of the sidecar a request"), cpu, "us");
        report.figure(&format!("{load}: failed"), of(&format!("/{load}/through/failed")), "requests");
    }
    for what in ["first_chunk", "between_chunks"] {
        for share in ["p50", "p99"] {
            let at = |way: &str| of(&format!("/streams/{way}/{what}_{share}_ms"));
            report.beside(&format!("streams: {what} {share}"), at("through"), "ms", "direct", at("direct"));
        }
    }
    if measured.pointer("/peer/peer").is_some() {
        for share in ["p50", "p99"] {
            let at = |who: &str| of(&format!("/peer/{who}/{share}_ms")) - of(&format!("/peer/direct/{share}_ms"));
            report.beside(&format!("{PEER_RATE}/s: added {share}"), at("sidecar"), "ms", "LiteLLM adds", at("peer"));
        }
    }
    report.figure("resident, idle", of("/sidecar_rss_idle_mib"), "MiB");
    report.figure("resident, after", of("/sidecar_rss_after_mib"), "MiB");
    report.beside("logs acknowledged", of("/log/acknowledged_by_kafka"), "calls", "calls", of("/log/requests"));
    report.figure("logs dropped", of("/log/dropped"), "calls");
    Ok(report.write("sidecar")?)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// A child that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Process {
    fn start(program: &str, arguments: &[String]) -> std::io::Result<Self> {
        let log = std::fs::File::create(std::env::temp_dir().join(format!("bench-{}.log", arguments.len())))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn()?))
    }

    /// Seconds of CPU so far, of it and its threads.
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }

    fn rss_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn wait_for(port: u16, path: &str, patience: Duration) -> Result<(), Box<dyn Error>> {
    let (client, url) = (reqwest::Client::builder().no_proxy().build()?, format!("http://127.0.0.1:{port}{path}"));
    let deadline = Instant::now() + patience;
    while !client.get(&url).send().await.is_ok_and(|r| r.status().is_success()) {
        if Instant::now() > deadline {
            return Err(format!("{url} does not answer").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

struct Setting {
    sidecar: Process,
    _stub: Process,
    direct: u16,
    through: u16,
    admin: u16,
    _folder: tempfile::TempDir,
}

async fn setting(kafka: &str) -> Result<Setting, Box<dyn Error>> {
    let (direct, through, admin) = (free_port()?, free_port()?, free_port()?);
    let own = std::env::current_exe()?.display().to_string();
    let stub = Process::start(&own, &["--stub".to_owned(), direct.to_string()])?;
    wait_for(direct, "/health", Duration::from_secs(10)).await?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("sidecar.toml");
    let topic = format!("bench-sidecar-{}", uuid::Uuid::now_v7().simple());
    let text = format!(
        "version = 1\n[kafka]\nbrokers = '{kafka}'\n[ingest]\ntopics = ['{topic}']\n[sidecar]\nlisten = '127.0.0.1:{through}'\n\
         admin_listen = '127.0.0.1:{admin}'\n[[sidecar.upstreams]]\nurl = 'http://127.0.0.1:{direct}'\n"
    );
    std::fs::write(&config, text)?;
    let arguments = ["sidecar", "--config", &config.display().to_string()].map(str::to_owned);
    let sidecar = Process::start(env!("CARGO_BIN_EXE_pelton"), &arguments)?;
    wait_for(admin, "/readyz", Duration::from_secs(10)).await?;
    Ok(Setting { sidecar, _stub: stub, direct, through, admin, _folder: folder })
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn run() -> Result<Value, Box<dyn Error>> {
    let kafka =
        std::env::var("PELTON_BENCH_KAFKA").map_err(|_| "PELTON_BENCH_KAFKA=HOST:PORT names the broker for the log")?;
    let (seconds, rounds) = (Duration::from_secs(number("PELTON_BENCH_SECONDS", 8)), number("PELTON_BENCH_ROUNDS", 3));
    let setting = setting(&kafka).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rss_idle = setting.sidecar.rss_mib();
    // Connections, pools and the topic are there before anything is measured.
    for port in [setting.direct, setting.through] {
        Load { port, connections: CONNECTIONS, rate: Some(500) }.run(Duration::from_secs(2)).await?;
    }
    let mut report = json!({
        "stub_latency_ms": stub::LATENCY_MS, "connections": CONNECTIONS, "seconds": seconds.as_secs(), "rounds": rounds,
        "sidecar_rss_idle_mib": rss_idle, "cores": std::thread::available_parallelism()?.get(),
    });
    for rate in RATES.map(Some).into_iter().chain([None]) {
        let name = rate.map_or("saturation".to_owned(), |rate| format!("rate_{rate}"));
        eprintln!("{name} …");
        report[name] = pairs(&setting, rate, seconds, rounds).await?;
    }
    eprintln!("streams …");
    report["streams"] = streams(&setting, seconds).await?;
    if let Ok(peer) = std::env::var("PELTON_BENCH_PEER") {
        eprintln!("peer …");
        // A peer that does not start costs its own figures only.
        report["peer"] =
            peer_beside(&setting, &peer, seconds).await.unwrap_or_else(|error| json!({"error": error.to_string()}));
    }
    report["sidecar_rss_after_mib"] = json!(setting.sidecar.rss_mib());
    report["log"] = log_of(&setting).await?;
    Ok(report)
}

/// Directly and through the sidecar, in turn; medians over the rounds.
async fn pairs(setting: &Setting, rate: Option<u32>, seconds: Duration, rounds: u64) -> Result<Value, Box<dyn Error>> {
    let (mut direct, mut through, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let load = |port| Load { port, connections: CONNECTIONS, rate };
        direct.push(load(setting.direct).run(seconds).await?);
        let before = setting.sidecar.cpu_seconds();
        let measured = load(setting.through).run(seconds).await?;
        // The log's thread may still be at work on what was asked.
        tokio::time::sleep(Duration::from_millis(500)).await;
        cpu.push((setting.sidecar.cpu_seconds() - before) * 1e6 / measured.answered as f64);
        through.push(measured);
    }
    let added: Vec<(&str, f64)> = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)]
        .map(|(name, share)| {
            let each = direct.iter().zip(&through).map(|(d, t)| t.latency_ms(share) - d.latency_ms(share));
            (name, median(each.collect()))
        })
        .to_vec();
    Ok(json!({
        "direct": summary(&direct), "through": summary(&through),
        "added_ms": added.into_iter().map(|(name, ms)| (name.to_owned(), json!(ms))).collect::<serde_json::Map<_, _>>(),
        "cpu_microseconds_per_request": median(cpu),
    }))
}

fn summary(all: &[Measured]) -> Value {
    let of = |share: f64| median(all.iter().map(|m| m.latency_ms(share)).collect());
    json!({
        "requests_per_second": median(all.iter().map(|m| m.answered as f64 / m.seconds).collect()),
        "p50_ms": of(0.5), "p99_ms": of(0.99), "p99.9_ms": of(0.999), "failed": all.iter().map(|m| m.failed).sum::<u64>(),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn streams(setting: &Setting, seconds: Duration) -> Result<Value, Box<dyn Error>> {
    let direct = load::streams(setting.direct, STREAMS, seconds).await?;
    let through = load::streams(setting.through, STREAMS, seconds).await?;
    let added = |pick: fn(&load::Streamed) -> &Measured, share| {
        pick(&through).latency_ms(share) - pick(&direct).latency_ms(share)
    };
    let one = |s: &load::Streamed| {
        json!({"streams": s.first.answered, "first_chunk_p50_ms": s.first.latency_ms(0.5), "first_chunk_p99_ms": s.first.latency_ms(0.99),
            "between_chunks_p50_ms": s.between.latency_ms(0.5), "between_chunks_p99_ms": s.between.latency_ms(0.99)})
    };
    Ok(json!({
        "at_once": STREAMS, "stub_between_ms": stub::BETWEEN_MS, "direct": one(&direct), "through": one(&through),
        "added_first_chunk_ms": {"p50": added(|s| &s.first, 0.5), "p99": added(|s| &s.first, 0.99)},
        "added_between_chunks_ms": {"p50": added(|s| &s.between, 0.5), "p99": added(|s| &s.between, 0.99)},
    }))
}

/// Another proxy before the same stub, at a rate that it can bear, beside ours and the stub itself.
async fn peer_beside(setting: &Setting, command: &str, seconds: Duration) -> Result<Value, Box<dyn Error>> {
    let port = free_port()?;
    let command = command
        .replace("{port}", &port.to_string())
        .replace("{upstream}", &format!("http://127.0.0.1:{}", setting.direct));
    let peer = Process::start("/bin/sh", &["-c".to_owned(), format!("exec {command}")])?;
    wait_for(port, "/health/liveliness", Duration::from_secs(120)).await?;
    let load = |port| Load { port, connections: 8, rate: Some(PEER_RATE) };
    load(port).run(Duration::from_secs(3)).await?;
    let direct = load(setting.direct).run(seconds).await?;
    let ours = load(setting.through).run(seconds).await?;
    let before = peer.cpu_seconds();
    let theirs = load(port).run(seconds).await?;
    let cpu = (peer.cpu_seconds() - before) * 1e6 / theirs.answered.max(1) as f64;
    Ok(json!({
        "rate": PEER_RATE, "direct": summary(&[direct]), "sidecar": summary(&[ours]), "peer": summary(&[theirs]),
        "peer_cpu_microseconds_per_request": cpu, "peer_rss_mib": peer.rss_mib(),
    }))
}

/// What became of the log: all of it should be with Kafka, none dropped.
async fn log_of(setting: &Setting) -> Result<Value, Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let text = reqwest::get(format!("http://127.0.0.1:{}/metrics", setting.admin)).await?.text().await?;
        let sum = |name: &str| -> f64 {
            let lines = text.lines().filter(|l| l.starts_with(name));
            lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        let (asked, sent, dropped) =
            (sum("pelton_sidecar_requests_total"), sum("pelton_log_sent_total"), sum("pelton_log_dropped_total"));
        if sent + dropped >= asked || Instant::now() > deadline {
            return Ok(json!({"requests": asked, "acknowledged_by_kafka": sent, "dropped": dropped}));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
