//! (b) The daemon: `pelton run` as a process of its own, from its start to the last commit.

use super::broker::{Broker, Sent};
use super::report::Report;
use super::{Options, cpu};
use anyhow::{Context as _, Result};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running daemon; killed when it is dropped.
pub struct Daemon {
    child: Child,
    console: String,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts a daemon that reads a topic into a lake of its own. `ingest` are lines of its `[ingest]` section.
    pub fn start(broker: &Broker, topic: &str, ingest: &str) -> Result<Self> {
        // Beside the build and not in /tmp, which may be in memory.
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&target)?;
        let folder = tempfile::tempdir_in(target)?;
        let console = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let path = folder.path().join("pelton.toml");
        let text = format!(
            "version = 1\n[lake]\nurl = 'lake'\n[kafka]\nbrokers = '{}'\n[console]\nlisten = '{console}'\n\
             [ingest]\ntopics = ['{topic}']\ngroup = '{topic}'\n{}\n",
            broker.address,
            ingest.replace(';', "\n")
        );
        fs::write(&path, text)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new(
            std::env::var("PELTON_BENCH_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pelton").to_owned()),
        )
        .args(["run", "--config"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
        Ok(Self { child, console, folder })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn table(&self) -> PathBuf {
        self.folder.path().join("lake/tables/inference_log")
    }

    /// Waits until so many rows are committed.
    pub fn until_rows(&mut self, rows: u64) -> Result<()> {
        loop {
            if self.rows().unwrap_or(0) >= rows {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                anyhow::bail!("the daemon ended with {status}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn rows(&self) -> Result<u64> {
        let mut stream = TcpStream::connect(&self.console)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().find_map(|l| l.strip_prefix("pelton_ingest_rows_total")).context("no rows metric")?;
        // The metric has the table as a label.
        let line = line.rsplit(char::is_whitespace).next().unwrap_or_default();
        Ok(line.trim().parse()?)
    }

    /// SIGTERM, and the end that follows.
    pub fn stop(mut self) -> Result<tempfile::TempDir> {
        let status = Command::new("kill").args(["-TERM", &self.id().to_string()]).status()?;
        anyhow::ensure!(status.success() && self.child.wait()?.success(), "the daemon did not drain");
        let kept = tempfile::tempdir()?;
        Ok(std::mem::replace(&mut self.folder, kept))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Bytes below a folder.
fn bytes_in(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() { bytes_in(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(total)
}

pub fn measure(broker: &Broker, sent: &Sent, raw: Option<f64>, options: &Options, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let mut daemon = Daemon::start(broker, &sent.topic, &options.ingest)?;
    daemon.until_rows(sent.messages)?;
    let (wall, id) = (began.elapsed().as_secs_f64(), daemon.id());
    let (cpu, rss) = (cpu::process(id)?.as_secs_f64(), cpu::peak_rss_megabytes(id)?);
    let size = bytes_in(&daemon.table())? as f64;
    daemon.stop()?;
    report.figure("pelton to a committed table: throughput", sent.megabytes() / wall, "MB/s");
    report.figure("pelton to a committed table: rows", sent.messages as f64 / wall, "rows/s");
    match raw {
        Some(raw) => report.beside(
            "pelton to a committed table: per CPU-second",
            sent.megabytes() / cpu,
            "MB/CPU-s",
            "the raw consumer",
            raw,
        ),
        None => report.figure("pelton to a committed table: per CPU-second", sent.megabytes() / cpu, "MB/CPU-s"),
    }
    report.figure("pelton to a committed table: CPU", cpu, "s");
    report.figure("pelton to a committed table: peak RSS", rss, "MB");
    report.figure("pelton to a committed table: bytes stored per byte read", size / sent.bytes as f64, "");
    Ok(())
}
