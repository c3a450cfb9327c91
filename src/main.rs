//! `pelton`: parses the command line and calls [`pelton::cli`].

use clap::Parser as _;
use std::process::ExitCode;

/// Big temporaries come and go in training; the system's allocator gives them back to the kernel each time, and a third of
/// the time went into page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match pelton::cli::run(pelton::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pelton: {error:#}");
            ExitCode::FAILURE
        }
    }
}
