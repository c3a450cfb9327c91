//! How responses are sampled: the section `[models.NAME.explore]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How responses are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Explore {
    /// Responses a prompt. Default: 8.
    #[schemars(range(min = 2, max = 1024))]
    pub samples: u32,
    /// Temperatures, used in turn over a prompt's samples. Default: 1.0.
    #[schemars(inner(range(min = 0.01, max = 5.0)))]
    pub temperatures: Vec<f64>,
    /// The longest response in tokens. Default: 256.
    #[schemars(range(min = 1))]
    pub tokens_max: usize,
    /// Sequences that are generated together. Default: 64.
    #[schemars(range(min = 1))]
    pub batch_rows: usize,
}

impl Default for Explore {
    fn default() -> Self {
        Self { samples: 8, temperatures: vec![1.0], tokens_max: 256, batch_rows: 64 }
    }
}
