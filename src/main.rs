//! `pelton`: parses the command line and calls [`pelton::cli`].

use clap::Parser as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Big temporaries come and go in training; the system's allocator gives them back to the kernel each time, and a third of
/// the time went into page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells the allocator to keep freed pages; it reads this once, at the first allocation, so before `main`.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

fn main() -> ExitCode {
    keep_pages_while_training();
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

/// Begins again with the allocator set up, where the command trains. A long-lived daemon gives its pages back as usual.
fn keep_pages_while_training() {
    let trains = std::env::args().nth(1).is_some_and(|command| ["cycle", "demo"].contains(&command.as_str()));
    if !trains || std::env::var_os(PURGE_DELAY).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // It returns only where it failed; then training is slower, and nothing else.
        drop(Command::new(program).args(std::env::args_os().skip(1)).env(PURGE_DELAY, "-1").exec());
    }
}
