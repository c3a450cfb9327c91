//! A window's SQL on one version of a table → the prompts of one cycle.
//!
//! The SQL of a window sees the tables, and `$since` and `$until` bound as UTC timestamps. It must return
//!
//! | column | type | what for |
//! |---|---|---|
//! | `request_id` | text | which call the prompt came from |
//! | `request_time` | timestamp | the latest of equal prompts is kept |
//! | `messages` | text, a JSON array of `{role, content}` | the prompt |
//! | or `prompt` | text | the prompt, as one user turn, where there is no `messages` |
//!
//! | `requester` | text | `per_user_max` (optional) |
//! | `stratum` | text | of more prompts than may be, each stratum gives one in turn (optional) |
//! | `weight` | number | which of them: twice the weight, twice as likely; 0 is never taken (optional) |
//! | `error`, `status_code` | boolean, number | calls answered with an error (400 and above) are left out (optional) |
//!
//! and may return more. The prompt's hash is computed from the messages here, never read from the SQL's answer: the
//! split must not depend on what a query calls a hash.
//!
//! Promises: the same table version, SQL and times give the same set in the same order. A prompt is on its side of
//! the split for ever: the side is a function of its hash and of the window's `holdout_share` alone. Every row that the
//! SQL returned is in the set, or in `left_out` with its reason.

mod choose;
mod error;
mod near;
mod preview;
mod rows;
mod thin;

pub use choose::{Request, SPLIT_SALT, check, choose, enough, split_of};
pub use error::Error;
pub use preview::{Preview, Sample};
