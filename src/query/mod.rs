//! SQL to Arrow: read-only sessions over named tables, output formats, and the interactive shell.
//!
//! A [`Session`] answers queries over the `TableProvider`s that it was given and nothing else. It never writes, never
//! opens a file or a URL that a query names, and never changes a setting: [`guard`](Session::query) refuses the
//! statement before it is planned, DataFusion's own options refuse the plan a second time, and no name in SQL resolves to
//! anything but a table. Memory, time, rows and the length of the text are bounded by [`Limits`].

mod error;
mod format;
mod functions;
mod guard;
mod near;
mod session;
pub mod shell;
mod view;
mod yielding;

pub use error::Error;
pub use format::{Format, printable, write};
pub use functions::{messages_from_json, token_count};
pub use near::near_matches;
pub use session::{Answer, Limits, Session, Sources, Table};
