//! Forgetting a requester everywhere: the tables, the reports of versions that quote their prompts, and a receipt.

use super::store_of;
use crate::domain::{Timestamp, VersionRef};
use crate::lake::{ForgetRequest, Forgotten, Lake};
use crate::publish::Registry;
use anyhow::{Context as _, Result};
use object_store::ObjectStoreExt as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The page of a version that shows prompts and answers side by side.
const REPORT: &str = "report.html";
const EMPTY_REPORT: &str = "<!doctype html><meta charset=\"utf-8\"><title>Report</title><p>This report quoted prompts that \
    were forgotten on request. The figures are in manifest.json.</p>\n";

/// What was done, as it is stored under `<lake>/receipts/` and printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// What was taken out.
    pub forgotten: Forgotten,
    /// Versions tuned on, or measured with, the requester's prompts. Their weights are as they were.
    pub versions: Vec<VersionRef>,
    /// All of it as JSON.
    pub json: Value,
    /// Whether nothing is left to do.
    pub complete: bool,
}

/// Forgets a requester and leaves a receipt, which names them by a hash only.
///
/// # Errors
/// Where a table, a version's folder or the receipt cannot be read or written. What was done until then stays done; doing it
/// again does the rest.
pub async fn forget(lake: &Lake, requester: &str, now: Timestamp, dry_run: bool) -> Result<Receipt> {
    let id = Uuid::now_v7().to_string();
    let mark = sha256(requester.as_bytes());
    let request = ForgetRequest { requester, mark: &mark, now, dry_run };
    let forgotten = lake.forget(request).await?;
    let versions = versions_of(lake, &forgotten.cycles).await?;
    let reports = if dry_run { Vec::new() } else { empty_reports(lake, &versions).await? };
    let complete = !forgotten.is_pending();
    let json = json!({
        "receipt": id,
        "time": now.to_string(),
        "requester_sha256": mark,
        "dry_run": dry_run,
        "complete": complete,
        "rows": forgotten.rows(),
        "tables": forgotten.tables.iter().map(|t| json!({
            "table": t.table.as_str(), "rows": t.rows,
            "version_before": t.version_before, "version_after": t.version_after,
            "files_rewritten": t.files_rewritten, "files_deleted": t.files_deleted, "files_pending": t.files_pending,
        })).collect::<Vec<_>>(),
        "cycles": forgotten.cycles,
        "adapters_trained_on_the_rows": versions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "reports_emptied": reports,
    });
    if !dry_run {
        store(lake, &id, &json).await?;
    }
    Ok(Receipt { forgotten, versions, json, complete })
}

async fn versions_of(lake: &Lake, cycles: &BTreeSet<String>) -> Result<Vec<VersionRef>> {
    let all = lake.all_versions().await?;
    let of: BTreeSet<VersionRef> =
        all.into_iter().filter(|v| cycles.contains(v.cycle.as_str())).map(|v| v.reference).collect();
    Ok(of.into_iter().collect())
}

/// Replaces the reports of versions, and their hash in the manifest with them.
async fn empty_reports(lake: &Lake, versions: &[VersionRef]) -> Result<Vec<String>> {
    let (store, root) = store_of(lake);
    let registry = Registry::new(store, &root);
    let mut emptied = Vec::new();
    for version in versions {
        let manifest = match registry.manifest(version).await {
            Err(crate::publish::Error::NotFound(_)) => continue,
            other => other?,
        };
        if manifest.files.get(REPORT).is_some_and(|hash| *hash != sha256(EMPTY_REPORT.as_bytes())) {
            registry.store(version, vec![(REPORT.to_owned(), EMPTY_REPORT.into())], manifest).await?;
            emptied.push(version.to_string());
        }
    }
    Ok(emptied)
}

async fn store(lake: &Lake, id: &str, receipt: &Value) -> Result<()> {
    let (store, root) = store_of(lake);
    let path = root.join("receipts").join(format!("forget-{id}.json"));
    let bytes = serde_json::to_vec_pretty(receipt)?;
    store.put(&path, bytes.into()).await.with_context(|| format!("cannot write the receipt {path}"))?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
