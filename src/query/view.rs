//! `request_feedback`: the view that joins what users said of an answer to the call that it answered.
//!
//! Each row of `inference_log` is there once, however many signals it got: signals are aggregated before the join, and one
//! that was sent twice counts once.

use datafusion::datasource::ViewTable;
use datafusion::prelude::SessionContext;
use futures::FutureExt as _;
use std::sync::Arc;

/// The view's name in SQL.
pub(super) const NAME: &str = "request_feedback";

/// The tables that it joins.
const TABLES: [&str; 2] = ["inference_log", "feedback"];

const SQL: &str = "\
SELECT inference_log.*,
       coalesce(signals.feedback_count, 0) AS feedback_count,
       coalesce(signals.thumbs_up, 0) AS thumbs_up,
       coalesce(signals.thumbs_down, 0) AS thumbs_down,
       signals.score_mean,
       signals.feedback_time_last
FROM inference_log LEFT JOIN (
  SELECT request_id AS signalled_request_id,
         count(*) AS feedback_count,
         sum(CASE WHEN thumb THEN 1 ELSE 0 END) AS thumbs_up,
         sum(CASE WHEN NOT thumb THEN 1 ELSE 0 END) AS thumbs_down,
         avg(score) AS score_mean,
         max(feedback_time) AS feedback_time_last
  FROM (SELECT request_id, feedback_id, bool_or(thumb) AS thumb, max(score) AS score, max(feedback_time) AS feedback_time
        FROM feedback GROUP BY request_id, feedback_id)
  GROUP BY request_id
) AS signals ON signals.signalled_request_id = inference_log.request_id";

/// The view over a session's tables; nothing where it lacks one of the two, or has others by their names.
pub(super) fn request_feedback(context: &SessionContext) -> Option<Arc<ViewTable>> {
    let there = |name: &str| context.table_exist(name).unwrap_or(false);
    if there(NAME) || !TABLES.iter().all(|name| there(name)) {
        return None;
    }
    let planned = context.state().create_logical_plan(SQL).now_or_never();
    let plan = planned.expect("planning over registered tables waits for nothing").ok()?;
    Some(Arc::new(ViewTable::new(plan, Some(SQL.to_owned()))))
}
