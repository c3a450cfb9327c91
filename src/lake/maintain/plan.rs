//! Which files become one: pure, from sizes and ages.
//!
//! Within a day that is still written to, files of like size are merged once there are more than a few of them, so a row is
//! rewritten about once for each eightfold growth of its file and never for each commit. A day that has come to rest is
//! merged into files of the target size, once. Days are kept apart: retention drops whole files.

use super::super::rewrite::LiveFile;
use std::collections::BTreeMap;

const DAY_MS: i64 = 86_400_000;
/// A partition that nobody wrote to for so long has come to rest.
const REST_MS: i64 = 3_600_000;
/// The smallest size class; each further one is eight times as large.
const CLASS_BYTES_MIN: u64 = 32 * 1024;
const CLASS_FACTOR: u64 = 8;
/// A day before yesterday gets late rows only: it is worth more rewriting, because there may be hundreds of such days.
const LATE_FILES_ALIKE_MAX: usize = 4;
/// A file of at least this share of the target is never touched again.
const FULL_SHARE: f64 = 0.6;
/// A merge holds its files' bytes in flight once; more is left for the next round.
const ROUND_BYTES_MAX: u64 = 2 << 30;

/// What merging aims at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aim {
    pub(crate) bytes_target: u64,
    pub(crate) files_alike_max: usize,
    pub(crate) now_ms: i64,
}

/// A set of files of one day, in the order that they were written, by their place in the list.
pub(super) type Bin = Vec<usize>;

/// The sets of files that should each become one.
pub(super) fn bins(files: &[LiveFile], aim: Aim) -> Vec<Bin> {
    let mut days: BTreeMap<(String, i64), Vec<usize>> = BTreeMap::new();
    for (i, file) in files.iter().enumerate() {
        // Rows that another program marked as deleted would come back: such a file is left alone.
        if !file.has_deletions && !is_full(file, aim) {
            days.entry(day_of(file)).or_default().push(i);
        }
    }
    let mut all = Vec::new();
    for ((partition, day), mut members) in days {
        members.sort_by_key(|&i| (files[i].modified_ms, &files[i].path));
        let youngest = members.iter().map(|&i| files[i].modified_ms).max().unwrap_or_default();
        let day = if partition.is_empty() { day } else { date_of(&partition).unwrap_or(day) };
        let today = aim.now_ms.div_euclid(DAY_MS);
        let rests = day < today && aim.now_ms - youngest >= REST_MS;
        if rests {
            all.extend(packed(files, &members, aim));
        } else {
            let alike_max = if day < today - 1 { LATE_FILES_ALIKE_MAX } else { aim.files_alike_max };
            for class in classes(files, &members).into_values().filter(|class| class.len() > alike_max) {
                all.extend(packed(files, &class, aim));
            }
        }
    }
    within_a_round(files, all)
}

fn is_full(file: &LiveFile, aim: Aim) -> bool {
    file.bytes as f64 >= aim.bytes_target as f64 * FULL_SHARE
}

/// The partition, and where there is none the day on which the rows were written.
fn day_of(file: &LiveFile) -> (String, i64) {
    if file.partition.is_empty() {
        return (String::new(), file.modified_ms.div_euclid(DAY_MS));
    }
    let values: Vec<String> =
        file.partition.iter().map(|(k, v)| format!("{k}={}", v.as_deref().unwrap_or(""))).collect();
    (values.join("/"), 0)
}

/// The day that a partition such as `request_date=2026-11-22` is of.
pub(super) fn date_of(partition: &str) -> Option<i64> {
    let text = partition.rsplit_once('=')?.1;
    let date: chrono::NaiveDate = text.parse().ok()?;
    Some(i64::from(date.signed_duration_since(chrono::NaiveDate::default()).num_days() as i32))
}

fn classes(files: &[LiveFile], members: &[usize]) -> BTreeMap<u32, Vec<usize>> {
    let class = |bytes: u64| (bytes / CLASS_BYTES_MIN).max(1).ilog(CLASS_FACTOR) + u32::from(bytes >= CLASS_BYTES_MIN);
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for &i in members {
        classes.entry(class(files[i].bytes)).or_default().push(i);
    }
    classes
}

/// Members in order, cut at the target size; a bin of one file is none.
fn packed(files: &[LiveFile], members: &[usize], aim: Aim) -> Vec<Bin> {
    let (mut bins, mut bin, mut bytes) = (Vec::new(), Vec::new(), 0);
    for &i in members {
        if bytes + files[i].bytes > aim.bytes_target && !bin.is_empty() {
            bins.push(std::mem::take(&mut bin));
            bytes = 0;
        }
        bin.push(i);
        bytes += files[i].bytes;
    }
    bins.push(bin);
    bins.retain(|bin: &Bin| bin.len() > 1);
    bins
}

/// The bins with the most files first, as many as one round takes.
fn within_a_round(files: &[LiveFile], mut bins: Vec<Bin>) -> Vec<Bin> {
    bins.sort_by_key(|bin| std::cmp::Reverse(bin.len()));
    let mut left = ROUND_BYTES_MAX;
    bins.retain(|bin| {
        let bytes: u64 = bin.iter().map(|&i| files[i].bytes).sum();
        let fits = bytes <= left;
        left = left.saturating_sub(if fits { bytes } else { 0 });
        fits
    });
    bins
}
