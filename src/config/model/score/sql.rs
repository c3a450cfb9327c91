//! Scoring SQL by running it: the section `[models.NAME.score.sql]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// SQL responses, scored without labels by running them in isolation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlScore {
    /// A folder of Parquet files, one a table, that the SQL runs on.
    #[schemars(length(min = 1))]
    pub database: String,
    /// The longest a query may run, in milliseconds. Default: 2,000.
    #[serde(default = "SqlScore::default_query_ms_max")]
    #[schemars(range(min = 10))]
    pub query_ms_max: u64,
    /// The most memory a query may take, in bytes. Default: 64 MiB.
    #[serde(default = "SqlScore::default_memory_bytes_max")]
    #[schemars(range(min = 1_048_576))]
    pub memory_bytes_max: usize,
    /// The most rows of a result; a larger one scores zero. Default: 10,000.
    #[serde(default = "SqlScore::default_rows_max")]
    #[schemars(range(min = 1))]
    pub rows_max: usize,
    /// The weight of agreement among a prompt's samples in [0, 1]; it never counts alone. Default: 0.4.
    #[serde(default = "SqlScore::default_agreement_weight")]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub agreement_weight: f64,
    /// Its weight among other scorers; alone it is the reward. Default: 1.
    #[serde(default = "SqlScore::default_weight")]
    #[schemars(range(min = 0.0))]
    pub weight: f64,
}

impl SqlScore {
    fn default_query_ms_max() -> u64 {
        2_000
    }
    fn default_memory_bytes_max() -> usize {
        64 << 20
    }
    fn default_rows_max() -> usize {
        10_000
    }
    fn default_agreement_weight() -> f64 {
        0.4
    }
    fn default_weight() -> f64 {
        1.0
    }
}
