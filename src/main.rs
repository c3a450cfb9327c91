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

/// Begins again with the allocator set up for the command: it reads its settings once, at the first allocation, so before
/// `main`.
fn set_the_allocator_up() {
    let (setting, value) = match std::env::args().nth(1).as_deref() {
        // Training keeps freed pages. A long-lived daemon gives its pages back as usual.
        Some("cycle" | "demo") => ("MIMALLOC_PURGE_DELAY", "-1"),
        // Huge pages that are touched at one end each held a third more memory in ingestion, and made nothing quicker.
        Some("run") => ("MIMALLOC_ALLOW_THP", "0"),
        _ => return,
    };
    if std::env::var_os(setting).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // It returns only where it failed; then the command is slower or larger, and nothing else.
        drop(Command::new(program).args(std::env::args_os().skip(1)).env(setting, value).exec());
    }
}
