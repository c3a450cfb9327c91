//! Named points at which a process kills itself, so that tests prove what a crash exactly there costs.
//!
//! `PELTON_FAILPOINT=NAME` or `NAME:N` in the environment arms one point: the process gets SIGKILL when it comes there for the
//! first or the N-th time. The points are always compiled in, because the promise is about the binary that users run; unarmed,
//! one costs a relaxed load of a byte that nobody writes. None lies in a loop over messages.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// The variable that arms a point.
const VARIABLE: &str = "PELTON_FAILPOINT";
const UNARMED: u8 = u8::MAX;

static ARMED: AtomicU8 = AtomicU8::new(UNARMED);
static VISITS_LEFT: AtomicU32 = AtomicU32::new(0);

macro_rules! failpoints {
    ($($point:ident $name:literal $doc:literal)*) => {
        /// A point at which a crash was thought about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Failpoint {
            $(#[doc = $doc] $point,)*
        }

        impl Failpoint {
            /// All points.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// The name in `PELTON_FAILPOINT`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

failpoints! {
    AfterDeadLetters "after-dead-letters" "The dead letters of a batch are committed, its rows are not."
    AfterWrite "after-write" "The files of a batch are written, the commit that names them is not begun."
    InCommit "in-commit" "The commit's log entry is on the disk and does not have its name yet."
    AfterCommit "after-commit" "The tables hold a batch, Kafka's group offsets do not cover it."
    InAssign "in-assign" "Partitions were given to this member, and it has not begun to read them."
    InRevoke "in-revoke" "Partitions are taken from this member, what it read of them is committed, it has not let go."
    InReplay "in-replay" "A replay committed a part of its rows."
    InExplore "in-explore" "A cycle explored a part of its prompts and kept the responses."
    InOptimize "in-optimize" "A cycle took a part of its optimizer's steps and kept the run."
    InState "in-state" "A cycle wrote that a step begins; the N-th row of its states."
    AfterClaim "after-claim" "A cycle has its version's number, and stored nothing under it."
    AfterFiles "after-files" "A version's folder is complete, and no row says that it is registered."
    AfterRegister "after-register" "A version's rows are committed, and its cycle does not know."
    BeforeEvent "before-event" "A state change is in the table, and its event is not begun."
    InEvent "in-event" "An event's messages are with the broker, and their transaction is open."
    AfterEvent "after-event" "An event is on the topic, and nobody was told."
}

impl fmt::Display for Failpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Kills this process where the point is armed and it is the armed visit.
pub fn failpoint(point: Failpoint) {
    if ARMED.load(Relaxed) == point as u8 && VISITS_LEFT.fetch_sub(1, Relaxed) == 1 {
        kill_self();
    }
}

/// Arms the point that the environment names, where it names one. Called once, before any work.
///
/// # Errors
/// What is wrong with the value, and what would be right: a point that is misspelled must not pass as survived.
pub fn arm_failpoint() -> Result<(), String> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(()) };
    let (point, visit) = parse(&text)?;
    VISITS_LEFT.store(visit, Relaxed);
    ARMED.store(point as u8, Relaxed);
    Ok(())
}

fn parse(text: &str) -> Result<(Failpoint, u32), String> {
    let (name, visit) = text.split_once(':').unwrap_or((text, "1"));
    let names = || Failpoint::ALL.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
    let point = Failpoint::ALL.iter().find(|p| p.name() == name);
    let point = point.ok_or_else(|| format!("{VARIABLE}: `{name}` is no failpoint; there are {}", names()))?;
    let visit = visit.parse().ok().filter(|n| *n > 0);
    Ok((*point, visit.ok_or_else(|| format!("{VARIABLE}: `{text}` counts visits from 1, such as `{name}:3`"))?))
}

#[expect(unsafe_code, reason = "raise(2) touches no memory; std can only abort, which runs handlers and dumps core")]
fn kill_self() -> ! {
    // SAFETY: SIGKILL ends the process; there is nothing to return to.
    unsafe {
        libc::raise(libc::SIGKILL);
    }
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_exactly_or_refused() {
        for point in Failpoint::ALL {
            assert_eq!(parse(point.name()), Ok((*point, 1)));
        }
        assert_eq!(parse("in-commit:7"), Ok((Failpoint::InCommit, 7)));
        for wrong in ["", "in-comit", "in-commit:", "in-commit:0", "in-commit:x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
