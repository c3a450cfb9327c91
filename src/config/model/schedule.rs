//! When cycles start by themselves: the section `[models.NAME.schedule]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When cycles start by themselves; neither `cron` nor `on_fresh_prompts` means only by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// A cron expression of five fields, in UTC, such as `0 3 * * *`. Default: none.
    pub cron: Option<String>,
    /// Whether a cycle starts as soon as the window has its minimum of fresh prompts. Default: false.
    pub on_fresh_prompts: bool,
    /// Minutes between the end of a cycle and the start of the next by fresh prompts. Default: 0.
    pub pause_minutes: u32,
    /// Hours of the day, in UTC, in which no cycle starts by itself, such as `["08:00-18:00"]`; one may cross midnight. A cron
    /// time that falls in them is caught up with afterwards. Default: none.
    pub quiet_hours: Vec<String>,
    /// How often a failed cycle is tried again before it is parked with its error. Default: 3.
    #[schemars(range(max = 100))]
    pub retries_max: u32,
    /// Seconds before the first retry; each further one waits twice as long, up to an hour. Default: 60.
    #[schemars(range(min = 1))]
    pub retry_pause_seconds: u32,
    /// What a model's cycles may use up in 24 hours; while it is used up, none starts by itself. Default: no limit.
    pub budget: Budget,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            cron: None,
            on_fresh_prompts: false,
            pause_minutes: 0,
            quiet_hours: Vec::new(),
            retries_max: 3,
            retry_pause_seconds: 60,
            budget: Budget::default(),
        }
    }
}

/// What a model's cycles may use up in 24 hours.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Minutes in which cycles ran, on a GPU or on the CPU. Default: none, no limit.
    #[schemars(range(min = 1))]
    pub compute_minutes: Option<u32>,
}

/// The minutes of the day between which a text such as `22:00-06:00` asks for quiet, the second excluded; nothing where it has
/// another form.
#[must_use]
pub fn quiet_minutes(text: &str) -> Option<(u32, u32)> {
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
        ((hour < 24 && minute < 60) || (hour == 24 && minute == 0)).then_some(hour * 60 + minute)
    };
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    (from != to).then_some((from, to))
}
