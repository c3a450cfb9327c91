//! Appending domain values to the tables that cycles write: few rows, each append its own commit.
//!
//! Every append carries a `txn` of its own, so one whose answer was lost is recognised instead of repeated. The output of
//! a cycle's step is named by the step: a step that is run again after a crash appends nothing.

use super::error::{Error, Result};
use super::tables::{candidate, cycle, evaluation, model_version, training_window};
use super::{Lake, TableName, log};
use crate::domain::{Candidate, Comparison, CycleEvent, CycleId, Timestamp, TrainingSet, Version, VersionRef};
use arrow::array::RecordBatch;
use deltalake::kernel::Transaction;
use deltalake::{DeltaTable, DeltaTableError};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often an append is tried before its error is the caller's.
const ATTEMPTS_MAX: u32 = 5;

impl Lake {
    /// Appends one state change of a cycle.
    ///
    /// # Errors
    /// [`Error::Table`] where the store stays away.
    pub async fn append_cycle(&self, event: &CycleEvent) -> Result<()> {
        self.append(TableName::Cycle, cycle::rows(std::slice::from_ref(event))).await
    }

    /// Appends one state change of a model version.
    ///
    /// # Errors
    /// [`Error::Table`] where the store stays away.
    pub async fn append_version(&self, version: &Version) -> Result<()> {
        self.append(TableName::ModelVersion, model_version::rows(std::slice::from_ref(version))).await
    }

    /// Appends the prompts that a cycle collected; once, however often it is called for the cycle.
    ///
    /// # Errors
    /// [`Error::Table`] where the store stays away.
    pub async fn append_training_window(&self, cycle: &CycleId, set: &TrainingSet, time: Timestamp) -> Result<()> {
        let rows = training_window::rows(cycle, time, set);
        self.append_once(TableName::TrainingWindow, &format!("cycle/{cycle}/collect"), rows).await
    }

    /// Appends what a step of a cycle (`explore`, `score`) sampled; once, however often it is called for the step.
    ///
    /// # Errors
    /// [`Error::Table`] where the store stays away.
    pub async fn append_candidates(
        &self,
        cycle: &CycleId,
        step: &str,
        candidates: &[Candidate],
        time: Timestamp,
    ) -> Result<()> {
        let rows = candidate::rows(cycle, time, candidates);
        self.append_once(TableName::Candidate, &format!("cycle/{cycle}/{step}"), rows).await
    }

    /// Appends the comparisons of a cycle's evaluation; once, however often it is called for the version.
    ///
    /// # Errors
    /// [`Error::Table`] where the store stays away.
    pub async fn append_evaluation(
        &self,
        cycle: &CycleId,
        version: &VersionRef,
        comparisons: &[Comparison],
        time: Timestamp,
    ) -> Result<()> {
        let rows = evaluation::rows(cycle, version, time, comparisons);
        self.append_once(TableName::Evaluation, &format!("cycle/{cycle}/evaluate/{version}"), rows).await
    }

    /// Appends a batch of a table's schema in one commit.
    ///
    /// # Errors
    /// [`Error::Table`] where the store stays away or the batch does not fit the table.
    pub async fn append(&self, name: TableName, batch: RecordBatch) -> Result<()> {
        // Numbers are taken in the order of commits, so that a number that stands there says that those before it are in.
        let _turn = self.turn(name).await;
        let sequence = self.inner.appends.fetch_add(1, Ordering::Relaxed);
        let transaction = Transaction::new(format!("writer/{}", self.inner.writer), sequence);
        self.append_as(name, transaction, batch).await
    }

    async fn append_once(&self, name: TableName, id: &str, batch: RecordBatch) -> Result<()> {
        let transaction = Transaction::new(id, 1);
        let done = {
            let table = self.fresh(name).await?;
            holds(&table, &transaction).await.map_err(Error::table(name, "read the log"))?
        };
        if done { Ok(()) } else { self.append_as(name, transaction, batch).await }
    }

    async fn append_as(&self, name: TableName, transaction: Transaction, batch: RecordBatch) -> Result<()> {
        let mut table = self.fresh(name).await?;
        let adds = log::write(&table, name, vec![batch]).await.map_err(Error::table(name, "write the rows"))?;
        let mut pause = Duration::from_millis(50);
        for attempt in 1.. {
            let failed = match log::commit(&mut table, adds.clone(), vec![transaction.clone()]).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            tokio::time::sleep(pause).await;
            pause *= 2;
            let known = table.update_state().await.is_ok();
            if known && holds(&table, &transaction).await.unwrap_or(false) {
                return Ok(());
            }
            if attempt == ATTEMPTS_MAX {
                return Err(Error::table(name, "commit the rows")(failed));
            }
        }
        unreachable!("the loop ends by returning")
    }
}

async fn holds(table: &DeltaTable, transaction: &Transaction) -> std::result::Result<bool, DeltaTableError> {
    let stored = table.snapshot()?.transaction_version(table.log_store().as_ref(), &transaction.app_id).await?;
    Ok(stored.is_some_and(|version| version >= transaction.version))
}
