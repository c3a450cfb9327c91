//! A disk that is full under a daemon: it says so once, loses nothing, and goes on when there is room.
//!
//! The disk is a tmpfs of a few megabytes in a mount namespace of a user's own, which takes no rights; where the system
//! forbids such namespaces, it is mounted as root or by a sudo that asks nothing.

use crate::support::kafka::{self, Home, until};
use rdkafka::mocking::MockCluster;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(90);

/// A small disk, and how to run a program that sees it.
pub struct SmallDisk {
    pub dir: TempDir,
    prefix: Vec<String>,
    /// Holds the namespace open.
    holder: Option<Child>,
}

impl SmallDisk {
    pub fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        let options = format!("size={size},mode=1777");
        let script = format!("mount -t tmpfs -o {options} tmpfs '{path}' && echo mounted && exec cat");
        let mut holder = Command::new("unshare")
            .args(["-rm", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said == "mounted\n" {
            let pid = holder.id().to_string();
            let prefix = ["nsenter", "-t", &pid, "-U", "-m", "--preserve-credentials"].map(str::to_owned).to_vec();
            return Self { dir, prefix, holder: Some(holder) };
        }
        holder.wait().unwrap();
        let arguments = ["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &path];
        let mounted = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).output().is_ok_and(|done| done.status.success())
        };
        let done = mounted("mount", &arguments[1..]) || mounted("sudo", &[&["-n"][..], &arguments[..]].concat());
        assert!(done, "no small disk: neither user namespaces, nor root, nor a sudo that asks nothing");
        Self { dir, prefix: Vec::new(), holder: None }
    }

    /// What stands before a program that sees the disk.
    pub fn prefix(&self) -> &[String] {
        &self.prefix
    }

    /// A program that sees the disk.
    fn command(&self, program: &str) -> Command {
        let words: Vec<&str> = self.prefix.iter().map(String::as_str).chain([program]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    fn pelton(&self, arguments: &[&str], config: &Path) -> Output {
        self.command(env!("CARGO_BIN_EXE_pelton")).args(arguments).arg("--config").arg(config).output().unwrap()
    }

    pub fn shell(&self, script: &str) {
        self.command("sh").args(["-c", script]).current_dir("/").output().unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            holder.kill().ok();
            holder.wait().ok();
            return;
        }
        let path = self.dir.path();
        let unmounted = Command::new("umount").arg("-l").arg(path).status().is_ok_and(|s| s.success());
        if !unmounted {
            Command::new("sudo").args(["-n", "umount", "-l"]).arg(path).status().ok();
        }
    }
}

/// Killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_once_and_waited_for() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("logs", 2, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let home = Home::at(&brokers, "logs");
    let disk = SmallDisk::mount("12m");
    let config = home.config("daemon", "", "retry_backoff_ms_max = 200\n[maintenance]\nperiod_seconds = 1\n");
    let lake = disk.dir.path().join("lake");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("url = 'lake'", &format!("url = '{}'", lake.display()));
    std::fs::write(&config, text.replace("fsync = false", "fsync = true")).unwrap();
    let rows = || {
        let sql = ["sql", "--format", "csv", "SELECT count(*) AS n FROM inference_log"];
        let said = disk.pelton(&sql, &config);
        String::from_utf8_lossy(&said.stdout).trim().lines().last().and_then(|n| n.parse::<u64>().ok())
    };
    let log = config.with_extension("log");
    let said = |what: &str| std::fs::read_to_string(&log).unwrap_or_default().matches(what).count();
    let daemon = disk
        .command(env!("CARGO_BIN_EXE_pelton"))
        .args(["run", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut daemon = Killed(daemon);
    kafka::send_logs(&brokers, "logs", 2, 0..400, || {});
    until("the first rows", PATIENCE, async || rows() == Some(400)).await;
    // Something else fills the disk up, to the last byte.
    let ballast = disk.dir.path().join("ballast");
    let fill = format!(
        "cat /dev/zero > '{0}'; for size in 4096 256 1; do while head -c $size /dev/zero >> '{0}'; do :; done; done",
        ballast.display()
    );
    disk.shell(&fill);
    kafka::send_logs(&brokers, "logs", 2, 400..1200, || {});
    until("the disk is said to be full", PATIENCE, async || said("trying until it is back") > 0).await;
    // At five tries a second it has failed dozens of times since.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rows(), Some(400), "nothing is committed that is not whole");
    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(said("trying until it is back"), 1, "{lines}");
    let complaints = lines.lines().filter(|line| line.contains("No space left on device")).count();
    assert!(complaints <= 2, "ingestion and maintenance say it once each: {lines}");
    disk.shell(&format!("rm '{}'", ballast.display()));
    until("the rows after the disk had space", PATIENCE, async || rows() == Some(1200)).await;
    assert_eq!(said("trying until it is back"), 1);
    let pid = daemon.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(daemon.0.wait().unwrap().success());
    let audit = disk.pelton(&["audit"], &config);
    let said = String::from_utf8_lossy(&audit.stdout);
    assert!(audit.status.success() && said.contains("clean: 1200 rows"), "{said}");
}
