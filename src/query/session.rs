//! A read-only DataFusion session over the tables that it is given.

use super::error::Error;
use super::near::near_matches;
use super::yielding::YieldingJoins;
use super::{functions, guard, view};
use crate::domain::Timestamp;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::{DataFusionError, ParamValues, ScalarValue, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::ObjectStore;
use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// A table as a session knows it.
#[derive(Debug, Clone)]
pub struct Table {
    /// The name in SQL.
    pub name: String,
    /// What reads it. A version of a Delta table other than the latest is a provider of that version.
    pub provider: Arc<dyn TableProvider>,
}

/// What a session reads: its tables, and the stores that their scans ask for by URL.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The tables, in the order that they are to be listed in.
    pub tables: Vec<Table>,
    /// Each store with the root of the URLs that it serves. SQL cannot name a URL: only a table's own scan gets there.
    pub stores: Vec<(Url, Arc<dyn ObjectStore>)>,
    /// Functions beside those that every session has.
    pub functions: Vec<ScalarUDF>,
}

impl Sources {
    /// Tables that have columns and no rows: what SQL is checked on.
    #[must_use]
    pub fn declared(tables: &[(String, SchemaRef)]) -> Self {
        let empty = |(name, schema): &(String, SchemaRef)| Table {
            name: name.clone(),
            provider: Arc::new(EmptyTable::new(Arc::clone(schema))),
        };
        tables.iter().map(empty).collect::<Vec<_>>().into()
    }
}

impl From<Vec<Table>> for Sources {
    /// Tables that bring their rows with them.
    fn from(tables: Vec<Table>) -> Self {
        Self { tables, ..Self::default() }
    }
}

/// What one query may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of a query's operators; sorts and joins over it spill to the operating system's temporary folder.
    pub memory_bytes_max: usize,
    /// Bytes that may be spilled; 0 forbids spilling.
    pub spill_bytes_max: u64,
    /// Rows of the answer.
    pub rows_max: Option<usize>,
    /// Time from the first word to the last row. It is looked at whenever an operator pauses, so a query may run a
    /// little longer than this.
    pub duration_max: Option<Duration>,
    /// Partitions that run side by side. With 1, rows come in the same order each time.
    pub threads: usize,
}

impl Default for Limits {
    /// For a person at a terminal: 1 GiB of memory, 8 GiB of spill, no bound on rows or time, all cores.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { memory_bytes_max: 1 << 30, spill_bytes_max: 8 << 30, rows_max: None, duration_max: None, threads }
    }
}

/// Answers read-only SQL over named tables.
pub struct Session {
    context: SessionContext,
    tables: Vec<(String, SchemaRef)>,
    limits: Limits,
}

/// An answer whose batches are still to come.
pub struct Answer {
    /// Names and types of its columns.
    pub schema: SchemaRef,
    /// Its rows, bounded by the session's limits.
    pub batches: BoxStream<'static, Result<RecordBatch, Error>>,
}

impl Answer {
    /// All batches.
    ///
    /// # Errors
    /// The first error of the stream.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>, Error> {
        let mut batches = Vec::new();
        while let Some(batch) = self.batches.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }
}

impl Session {
    /// A session over tables, and over the view `request_feedback` where it has the two tables that it joins.
    ///
    /// # Errors
    /// [`Error::Failed`] where DataFusion refuses the limits or two tables share a name.
    pub fn new(sources: impl Into<Sources>, limits: Limits) -> Result<Self, Error> {
        let Sources { tables, stores: own, functions: added } = sources.into();
        let config = SessionConfig::new().with_information_schema(true).with_target_partitions(limits.threads.max(1));
        // The default registry resolves file:// paths. What the tables need is registered instead, and nothing else.
        let stores = DefaultObjectStoreRegistry::new();
        let files = Url::parse("file://").expect("a constant URL");
        let fail = |e: &DataFusionError| Error::from_datafusion(e, limits.memory_bytes_max);
        stores.deregister_store(&files).map_err(|e| fail(&e))?;
        for (url, store) in own {
            stores.register_store(&url, store);
        }
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_limit(limits.memory_bytes_max, 1.0)
            .with_max_temp_directory_size(limits.spill_bytes_max)
            .with_object_store_registry(Arc::new(stores))
            .build_arc()
            .map_err(|e| fail(&e))?;
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(YieldingJoins))
            .build();
        let mut context = SessionContext::new_with_state(state);
        datafusion_functions_json::register_all(&mut context).map_err(|e| fail(&e))?;
        for function in functions::all().into_iter().chain(added) {
            context.register_udf(function);
        }
        let mut known = Vec::with_capacity(tables.len());
        for table in tables {
            known.push((table.name.clone(), table.provider.schema()));
            context.register_table(TableReference::bare(table.name), table.provider).map_err(|e| fail(&e))?;
        }
        if let Some(joined) = view::request_feedback(&context) {
            known.push((view::NAME.to_owned(), joined.schema()));
            context.register_table(TableReference::bare(view::NAME), joined).map_err(|e| fail(&e))?;
        }
        Ok(Self { context, tables: known, limits })
    }

    /// The tables with their columns, in the order given.
    #[must_use]
    pub fn tables(&self) -> &[(String, SchemaRef)] {
        &self.tables
    }

    /// The names of all functions, sorted.
    #[must_use]
    pub fn functions(&self) -> Vec<String> {
        let state = self.context.state();
        let mut names: Vec<String> = state.scalar_functions().keys().cloned().collect();
        names.extend(state.aggregate_functions().keys().cloned());
        names.extend(state.window_functions().keys().cloned());
        names.sort();
        names.dedup();
        names
    }

    /// Runs one read-only statement.
    ///
    /// # Errors
    /// Any variant of [`Error`]; those of the rows come with the stream.
    pub async fn query(&self, sql: &str) -> Result<Answer, Error> {
        self.query_with(sql, &[]).await
    }

    /// Runs one read-only statement whose `$name` parameters are points in time. They are bound as values, never
    /// pasted into the text.
    ///
    /// # Errors
    /// As [`Self::query`], and [`Error::UnknownParameter`] for a `$name` that is not among `parameters`.
    pub async fn query_with(&self, sql: &str, parameters: &[(&str, Timestamp)]) -> Result<Answer, Error> {
        let deadline = self.limits.duration_max.map(|d| Instant::now() + d);
        let plan = self.guarded(deadline, self.plan(sql, parameters)).await??;
        let frame = DataFrame::new(self.context.state(), plan);
        let stream = self.guarded(deadline, frame.execute_stream()).await?.map_err(|e| self.fail(&e))?;
        let schema = stream.schema();
        let limits = self.limits;
        let caught = AssertUnwindSafe(stream).catch_unwind().map(move |item| match item {
            Ok(Ok(batch)) => Ok(batch),
            Ok(Err(error)) => Err(Error::from_datafusion(&error, limits.memory_bytes_max)),
            Err(panic) => Err(panicked(panic.as_ref())),
        });
        Ok(Answer { schema, batches: bounded(caught.boxed(), limits, deadline) })
    }

    /// The columns that a statement would return, without running it.
    ///
    /// # Errors
    /// As [`Self::query_with`], those of the rows excepted.
    pub async fn check(&self, sql: &str, parameters: &[(&str, Timestamp)]) -> Result<SchemaRef, Error> {
        let plan = self.guarded(None, self.plan(sql, parameters)).await??;
        // The analyzer coerces types: a comparison of a text with a time fails here, not at the first row.
        let plan = self.context.state().optimize(&plan).map_err(|e| self.fail(&e))?;
        Ok(Arc::new(plan.schema().as_arrow().clone()))
    }

    async fn plan(&self, sql: &str, parameters: &[(&str, Timestamp)]) -> Result<LogicalPlan, Error> {
        let statement = guard::parse_read_only(sql)?;
        self.check_tables(&statement)?;
        let state = self.context.state();
        let plan = state.statement_to_plan(statement).await.map_err(|e| self.fail(&e))?;
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        read_only.verify_plan(&plan).map_err(|e| self.fail(&e))?;
        self.bind(plan, parameters)
    }

    fn bind(&self, plan: LogicalPlan, parameters: &[(&str, Timestamp)]) -> Result<LogicalPlan, Error> {
        let used = plan.get_parameter_names().map_err(|e| self.fail(&e))?;
        let known = || parameters.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
        let mut unknown: Vec<String> = used
            .iter()
            .map(|name| name.trim_start_matches('$').to_owned())
            .filter(|name| !parameters.iter().any(|(known, _)| known == name))
            .collect();
        unknown.sort();
        if let Some(name) = unknown.into_iter().next() {
            return Err(Error::UnknownParameter { name, known: known() });
        }
        let utc = |time: Timestamp| ScalarValue::TimestampMicrosecond(Some(time.micros()), Some("UTC".into()));
        let values: HashMap<String, _> =
            parameters.iter().map(|(name, time)| ((*name).to_owned(), utc(*time).into())).collect();
        plan.with_param_values(ParamValues::Map(values)).map_err(|e| self.fail(&e))
    }

    /// Says which table is unknown before DataFusion does, so that the message can name those that exist.
    fn check_tables(&self, statement: &Statement) -> Result<(), Error> {
        let state = self.context.state();
        for reference in state.resolve_table_references(statement).map_err(|e| self.fail(&e))? {
            let system = reference.schema() == Some("information_schema");
            let function = reference.schema().is_none() && state.table_functions().contains_key(reference.table());
            let ours = reference.catalog().is_none_or(|c| c == "datafusion")
                && reference.schema().is_none_or(|s| s == "public")
                && self.tables.iter().any(|(name, _)| name == reference.table());
            if !(system || function || ours) {
                let known: Vec<String> = self.tables.iter().map(|(name, _)| name.clone()).collect();
                let near = near_matches(reference.table(), known.iter().map(String::as_str));
                return Err(Error::UnknownTable { table: reference.to_string(), near, known });
            }
        }
        Ok(())
    }

    /// Runs a step under the deadline; a panic in it becomes an error.
    async fn guarded<T>(&self, deadline: Option<Instant>, step: impl Future<Output = T>) -> Result<T, Error> {
        let step = AssertUnwindSafe(step).catch_unwind();
        let done = match deadline {
            None => step.await,
            Some(at) => tokio::time::timeout_at(at, step).await.map_err(|_| too_slow(self.limits))?,
        };
        done.map_err(|panic| panicked(panic.as_ref()))
    }

    fn fail(&self, error: &DataFusionError) -> Error {
        Error::from_datafusion(error, self.limits.memory_bytes_max)
    }
}

/// Ends the stream at the limits; nothing follows an error.
fn bounded(
    batches: BoxStream<'static, Result<RecordBatch, Error>>,
    limits: Limits,
    deadline: Option<Instant>,
) -> BoxStream<'static, Result<RecordBatch, Error>> {
    let start = Some((batches, 0usize));
    futures::stream::unfold(start, move |state| async move {
        let (mut batches, mut rows) = state?;
        let next = match deadline {
            None => batches.next().await,
            Some(at) => match tokio::time::timeout_at(at, batches.next()).await {
                Ok(next) => next,
                Err(_) => return Some((Err(too_slow(limits)), None)),
            },
        };
        match next? {
            Err(error) => Some((Err(error), None)),
            Ok(batch) => {
                rows += batch.num_rows();
                match limits.rows_max {
                    Some(rows_max) if rows > rows_max => Some((Err(Error::TooManyRows { rows_max }), None)),
                    _ => Some((Ok(batch), Some((batches, rows)))),
                }
            }
        }
    })
    .boxed()
}

fn too_slow(limits: Limits) -> Error {
    Error::TooSlow { duration_max: limits.duration_max.unwrap_or_default() }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    Error::Panicked { message: text.unwrap_or_else(|| "no message".to_owned()) }
}
