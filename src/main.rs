//! `pelton`: parses the command line and calls [`pelton::cli`].

use clap::Parser as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Big temporaries come and go in training; the system's allocator gives them back to the kernel each time, and a third of
/// the time went into page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    set_the_allocator_up();
    end_quietly_on_a_closed_pipe();
    match pelton::cli::run(pelton::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pelton: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `pelton … | head` is no fault of anybody: where the reader of our output is gone, we end as other tools do, by the status
/// of SIGPIPE. `println!` would panic with a trace.
fn end_quietly_on_a_closed_pipe() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload_as_str().unwrap_or_default();
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(128 + libc::SIGPIPE);
        }
        usual(panic);
    }));
}

/// Begins again with the allocators set up for the command: they read their settings once, at the first allocation, so
/// before `main`. What the user has set stays.
fn set_the_allocator_up() {
    /// For a process that stays beside others for months.
    const LEAN: [(&str, &str); 3] = [
        // Huge pages that are touched at one end each held a third more memory in ingestion, and made nothing quicker.
        ("MIMALLOC_ALLOW_THP", "0"),
        // librdkafka's threads share one heap of the C library: what one frees is there for the others.
        ("MALLOC_ARENA_MAX", "2"),
        // Responses of the broker are megabytes: given back when they are done, not kept in a heap with holes.
        ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ];
    /// Says what the settings were made for: a daemon's are not for the cycle that it starts.
    const MARK: &str = "PELTON_ALLOCATOR";
    let command = std::env::args().nth(1).unwrap_or_default();
    let settings: &[(&str, &str)] = match command.as_str() {
        // Training keeps freed pages.
        "cycle" | "demo" => &[("MIMALLOC_PURGE_DELAY", "-1")],
        "sidecar" => &LEAN,
        // A merge beside ingestion frees a hundred megabytes a second that other threads allocated: kept for the usual second
        // they are 150 MB more resident. Given back at once they would cost a third more CPU time.
        "run" => &[("MIMALLOC_PURGE_DELAY", "20"), LEAN[0], LEAN[1], LEAN[2]],
        _ => return,
    };
    let mark = std::env::var(MARK).ok();
    if mark.as_deref() == Some(&command) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = Command::new(program);
    again.args(std::env::args_os().skip(1)).env(MARK, &command);
    if mark.is_some() {
        // They are those of the daemon that started us.
        again.env_remove("MIMALLOC_ALLOW_THP").env_remove("MALLOC_ARENA_MAX").env_remove("MALLOC_MMAP_THRESHOLD_");
    }
    for (name, value) in settings {
        if mark.is_some() || std::env::var_os(name).is_none() {
            again.env(name, value);
        }
    }
    // It returns only where it failed; then the command is slower or larger, and nothing else.
    drop(again.exec());
}
