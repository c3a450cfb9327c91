//! When a promoted version is withdrawn by itself: the section `[models.NAME.rollback]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When a promoted version is withdrawn by itself: live requests of it are compared with those of the champion before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rollback {
    /// What is compared, by name. Default: `errors` (status 500 and above) and `feedback` (thumbs down, or a score below 0.5).
    pub checks: BTreeMap<String, RollbackCheck>,
    /// So many of the newest answers of each version are scored by the gate's scorers (the training's where it has none) and
    /// compared too. Default: 0, none.
    #[schemars(range(max = 10_000))]
    pub score_sample: u32,
    /// Fewer requests of either version than this prove nothing. Default: 50.
    #[schemars(range(min = 5))]
    pub requests_min: u64,
    /// How sure a fall must be, over all looks at one promotion together. Default: 0.99.
    #[schemars(range(min = 0.5, max = 0.99999))]
    pub confidence: f64,
    /// Hours after a promotion in which it is watched, and hours before it whose logs count for the version before. Default: 24.
    #[schemars(range(min = 1, max = 8760))]
    pub watch_hours: u32,
    /// Seconds between two looks. Default: 300.
    #[schemars(range(min = 1))]
    pub look_seconds: u32,
}

/// One figure that is compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackCheck {
    /// SQL over the tables that returns a row a request: `version` (text: `model@vN`, or the model's own name for the base),
    /// `request_time` (a timestamp) and `bad` (0 to 1). `$since` and `$until` stand for the times that are looked at.
    #[schemars(length(min = 1))]
    pub sql: String,
    /// A version that is worse by no more than this is kept. Default: 0.02.
    #[serde(default = "RollbackCheck::fall_min")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub fall_min: f64,
}

impl RollbackCheck {
    fn fall_min() -> f64 {
        0.02
    }
}

impl Default for Rollback {
    fn default() -> Self {
        let check = |sql: &str| RollbackCheck { sql: sql.to_owned(), fall_min: RollbackCheck::fall_min() };
        let errors = "SELECT coalesce(model_version, model) AS version, request_time, \
                      CASE WHEN status_code >= 500 THEN 1.0 ELSE 0.0 END AS bad FROM inference_log \
                      WHERE request_time >= $since AND request_time < $until";
        let feedback = "SELECT coalesce(model_version, model) AS version, request_time, \
                        CASE WHEN thumbs_down > 0 OR score_mean < 0.5 THEN 1.0 ELSE 0.0 END AS bad FROM request_feedback \
                        WHERE feedback_count > 0 AND request_time >= $since AND request_time < $until";
        let checks = [("errors", check(errors)), ("feedback", check(feedback))];
        Self {
            checks: checks.map(|(name, check)| (name.to_owned(), check)).into(),
            score_sample: 0,
            requests_min: 50,
            confidence: 0.99,
            watch_hours: 24,
            look_seconds: 300,
        }
    }
}
