//! Reading the low-rate tables back as domain values.

use super::error::{Error, Result};
use super::ranges::{Gap, union};
use super::tables::removal::Removal;
use super::tables::{candidate, cycle, model_version, removal, training_window};
use super::{Lake, PartitionKey, TableName};
use crate::domain::{Candidate, CycleEvent, CycleId, ModelName, TrainingSet, Version};
use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use std::collections::BTreeMap;

impl Lake {
    /// All state changes of all cycles, or of one model's, in the order of time.
    ///
    /// # Errors
    /// [`Error::Table`] and [`Error::Query`] where the table cannot be read, [`Error::Value`] where a row is not ours.
    pub async fn cycle_events(&self, model: Option<&ModelName>) -> Result<Vec<CycleEvent>> {
        let only = model.map_or_else(String::new, |m| format!("WHERE model = '{m}'"));
        let batches = self.select(TableName::Cycle, &format!("{only} ORDER BY time")).await?;
        let mut events = each(&batches, cycle::read)?;
        // A cycle may pass through two states within one clock tick.
        events.sort_by(|a, b| (a.time, &a.cycle, a.state).cmp(&(b.time, &b.cycle, b.state)));
        Ok(events)
    }

    /// All state changes of one cycle, in order.
    ///
    /// # Errors
    /// As [`Self::cycle_events`].
    pub async fn events_of_cycle(&self, cycle: &CycleId) -> Result<Vec<CycleEvent>> {
        let batches = self.select(TableName::Cycle, &format!("WHERE cycle = '{cycle}'")).await?;
        let mut events = each(&batches, cycle::read)?;
        events.sort_by_key(|e| (e.time, e.state));
        Ok(events)
    }

    /// All state changes of a model's versions, in the order of time.
    ///
    /// # Errors
    /// As [`Self::cycle_events`].
    pub async fn versions(&self, model: &ModelName) -> Result<Vec<Version>> {
        let batches = self.select(TableName::ModelVersion, &format!("WHERE model = '{model}' ORDER BY time")).await?;
        each(&batches, model_version::read)
    }

    /// All state changes of all models' versions, in the order of time.
    ///
    /// # Errors
    /// As [`Self::cycle_events`].
    pub async fn all_versions(&self) -> Result<Vec<Version>> {
        let batches = self.select(TableName::ModelVersion, "ORDER BY time").await?;
        each(&batches, model_version::read)
    }

    /// The candidates of a cycle by prompt and sample, each as it was written last: scored, where it was scored.
    ///
    /// # Errors
    /// As [`Self::cycle_events`].
    pub async fn candidates(&self, cycle: &CycleId) -> Result<Vec<Candidate>> {
        let batches = self.select(TableName::Candidate, &format!("WHERE cycle = '{cycle}' ORDER BY time")).await?;
        let all = each(&batches, candidate::read)?;
        let last: BTreeMap<_, _> = all.into_iter().map(|c| ((c.prompt, c.sample), c)).collect();
        Ok(last.into_values().collect())
    }

    /// The prompts that a cycle collected, in their order; nothing where it has collected none.
    ///
    /// # Errors
    /// As [`Self::cycle_events`].
    pub async fn training_set(&self, cycle: &CycleId) -> Result<Option<TrainingSet>> {
        let only = format!("WHERE cycle = '{cycle}' ORDER BY split, position");
        training_window::read(&self.select(TableName::TrainingWindow, &only).await?)
    }

    /// Everything that was ever taken out on purpose, by time.
    ///
    /// # Errors
    /// As [`Self::cycle_events`].
    pub async fn removals(&self) -> Result<Vec<Removal>> {
        each(&self.select(TableName::Removal, "ORDER BY time, removal, first_offset").await?, removal::read)
    }

    /// The offsets whose rows were taken out of tables, by partition, in order.
    pub(super) async fn removed_offsets(&self, tables: &[TableName]) -> Result<BTreeMap<PartitionKey, Vec<Gap>>> {
        let mut ranges: BTreeMap<PartitionKey, Vec<Gap>> = BTreeMap::new();
        for removal in self.removals().await?.into_iter().filter(|r| tables.contains(&r.table)) {
            let key =
                PartitionKey { topic: removal.topic, generation: removal.generation, partition: removal.partition };
            ranges.entry(key).or_default().push(Gap { first: removal.first, last: removal.last });
        }
        for ranges in ranges.values_mut() {
            ranges.sort_unstable();
            *ranges = union(std::mem::take(ranges));
        }
        Ok(ranges)
    }

    /// The rows of `SELECT * FROM table` and what follows. Values in it come from validated names only.
    async fn select(&self, name: TableName, rest: &str) -> Result<Vec<RecordBatch>> {
        self.query(name, &format!("SELECT * FROM {name} {rest}")).await
    }

    /// The rows of a query of ours over `logs`: the calls of every table of logs, with who asked and which prompt.
    pub(super) async fn query_logs(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let session = SessionContext::new();
        let (url, store) = self.object_store();
        session.register_object_store(&url, store);
        let mut all = Vec::new();
        for name in self.tables().filter(|name| name.is_log()) {
            session.register_table(name.as_str(), self.provider(name, None).await?).map_err(Error::query(name))?;
            all.push(format!("SELECT request_id, requester, prompt_hash FROM {name}"));
        }
        let logs = TableName::InferenceLog;
        let sql = format!("WITH logs AS ({}) {sql}", all.join(" UNION ALL "));
        let frame = session.sql(&sql).await.map_err(Error::query(logs))?;
        frame.collect().await.map_err(Error::query(logs))
    }

    /// The rows of a query of ours over one table's newest version.
    pub(super) async fn query(&self, name: TableName, sql: &str) -> Result<Vec<RecordBatch>> {
        let session = SessionContext::new();
        let (url, store) = self.object_store();
        session.register_object_store(&url, store);
        session.register_table(name.as_str(), self.provider(name, None).await?).map_err(Error::query(name))?;
        let frame = session.sql(sql).await.map_err(Error::query(name))?;
        frame.collect().await.map_err(Error::query(name))
    }
}

fn each<T>(batches: &[RecordBatch], read: fn(&RecordBatch) -> Result<Vec<T>>) -> Result<Vec<T>> {
    batches.iter().map(read).collect::<Result<Vec<_>>>().map(|v| v.into_iter().flatten().collect())
}
