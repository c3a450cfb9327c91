//! Commits that are made only where nobody has taken over: fencing tokens, and changes of versions that lose no race.
//!
//! A fence is a name and a token that only grows; both stand as a `txn` in the logs of `cycle` and `model_version`. Whoever
//! takes over raises the token first. A commit that names fences is made on exactly the version of the log on which each still
//! stood at its token, so that a process that was taken over (a zombie: paused, cut off, slow) cannot write a row there,
//! however late it wakes. No clock and no lease is in it.

use super::error::{Error, Result};
use super::tables::{cycle, model_version};
use super::{Lake, TableName, log};
use crate::domain::{CycleEvent, ModelName, Timestamp, Version};
use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use deltalake::kernel::Transaction;
use deltalake::{DeltaTable, DeltaTableError};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Tries of one commit that failed for a reason of the store's; lost races are tried until they are won.
const FAILURES_MAX: u32 = 5;
/// Where fences stand. `cycle` is first: the next token is what stands there and one more.
const FENCED: [TableName; 2] = [TableName::Cycle, TableName::ModelVersion];

/// The right to write, until somebody raises it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// What it is the right to: `scheduler`, or a cycle's run.
    pub name: String,
    /// The token; a later owner has a greater one.
    pub token: i64,
}

impl Fence {
    fn id(name: &str) -> String {
        format!("fence/{name}")
    }
}

/// What a commit wants to add.
struct Wanted<T> {
    rows: Option<RecordBatch>,
    transactions: Vec<Transaction>,
    /// What the caller gets once it is in.
    answer: T,
}

/// What a decision is made on: the log as it stands at one version.
struct Found {
    tokens: Vec<i64>,
    versions: Vec<Version>,
}

/// What of it a decision needs.
#[derive(Default)]
struct Asked<'a> {
    ids: Vec<String>,
    model: Option<&'a ModelName>,
}

impl<'a> Asked<'a> {
    fn fences(fences: &[Fence]) -> Self {
        Self { ids: fences.iter().map(|f| Fence::id(&f.name)).collect(), model: None }
    }

    fn versions(self, model: &'a ModelName) -> Self {
        Self { model: Some(model), ..self }
    }
}

impl Lake {
    /// Takes a name over: every older holder's commits fail from now on.
    ///
    /// # Errors
    /// [`Error::Table`] where the store stays away.
    pub async fn raise_fence(&self, name: &str) -> Result<Fence> {
        let mut token = 0;
        for table in FENCED {
            let id = Fence::id(name);
            let asked = Asked { ids: vec![id.clone()], model: None };
            let raise = |found: &Found| {
                // In the first table the next token; in the others this one, unless it is past already.
                let next = if table == FENCED[0] { found.tokens[0] + 1 } else { token };
                let transactions = vec![Transaction::new(&id, next)];
                Ok((found.tokens[0] < next).then_some(Wanted { rows: None, transactions, answer: next }))
            };
            token = self.commit_decided(table, asked, raise).await?.unwrap_or(token);
        }
        Ok(Fence { name: name.to_owned(), token })
    }

    /// Whether fences still stand at their tokens.
    ///
    /// # Errors
    /// [`Error::Fenced`] where somebody took over, [`Error::Table`] where the store is away.
    pub async fn check_fences(&self, fences: &[Fence]) -> Result<()> {
        let state = self.fresh(FENCED[0]).await?.clone();
        let found = self.found(&state, &Asked::fences(fences)).await?;
        check(&found, fences)
    }

    /// Appends one state change of a cycle, where its fences still stand.
    ///
    /// # Errors
    /// As [`Self::check_fences`].
    pub async fn append_cycle_fenced(&self, event: &CycleEvent, fences: &[Fence]) -> Result<()> {
        let append = |found: &Found| {
            check(found, fences)?;
            let rows = Some(cycle::rows(std::slice::from_ref(event)));
            Ok(Some(Wanted { rows, transactions: Vec::new(), answer: () }))
        };
        self.commit_decided(TableName::Cycle, Asked::fences(fences), append).await.map(drop)
    }

    /// Decides on a model's state changes so far, in the order of time, and appends what was decided, all of it in one
    /// commit and only if nobody changed a version in between: otherwise it decides again. Times are moved on where the clock
    /// has gone back, so that a model's changes are in strict order. Gives what was appended; nothing where nothing was decided.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason of `decide`, [`Error::Fenced`] where somebody took over, [`Error::Table`] where the
    /// store stays away.
    pub async fn change_versions(
        &self,
        model: &ModelName,
        fences: &[Fence],
        decide: impl Fn(&[Version]) -> std::result::Result<Vec<Version>, String>,
    ) -> Result<Vec<Version>> {
        let change = |found: &Found| {
            check(found, fences)?;
            let mut changes = decide(&found.versions).map_err(Error::Refused)?;
            let mut last = found.versions.last().map(|v| v.time);
            for change in &mut changes {
                let after = last.map(|last| Timestamp::from_micros(last.micros() + 1));
                change.time = after.map_or(change.time, |after| after.max(change.time));
                last = Some(change.time);
            }
            let rows = (!changes.is_empty()).then(|| model_version::rows(&changes));
            Ok(rows.map(|rows| Wanted { rows: Some(rows), transactions: Vec::new(), answer: changes }))
        };
        let asked = Asked::fences(fences).versions(model);
        Ok(self.commit_decided(TableName::ModelVersion, asked, change).await?.unwrap_or_default())
    }

    /// How far somebody has followed a model's state changes: a number that only grows, 0 where it was never moved.
    ///
    /// # Errors
    /// [`Error::Table`] where the log cannot be read.
    pub async fn follower(&self, name: &str) -> Result<i64> {
        let state = self.fresh(TableName::ModelVersion).await?.clone();
        stored(&state, &format!("follower/{name}")).await
    }

    /// Moves a follower on; one that is past the number already stays.
    ///
    /// # Errors
    /// [`Error::Table`] where the store stays away.
    pub async fn move_follower(&self, name: &str, to: i64) -> Result<()> {
        let id = format!("follower/{name}");
        let asked = Asked { ids: vec![id.clone()], model: None };
        let advance = |found: &Found| {
            let transactions = vec![Transaction::new(&id, to)];
            Ok((found.tokens[0] < to).then_some(Wanted { rows: None, transactions, answer: () }))
        };
        self.commit_decided(TableName::ModelVersion, asked, advance).await.map(drop)
    }

    /// Commits what is decided on a version of the log as the very next version; where another commit came first, it is
    /// decided again.
    async fn commit_decided<T>(
        &self,
        name: TableName,
        asked: Asked<'_>,
        decide: impl Fn(&Found) -> Result<Option<Wanted<T>>>,
    ) -> Result<Option<T>> {
        // Numbers are taken in the order of commits, so that a number that stands there says that those before it are in.
        let _turn = self.turn(name).await;
        let sequence = self.inner.appends.fetch_add(1, Ordering::Relaxed);
        let mine = Transaction::new(format!("exact/{}", self.inner.writer), sequence);
        let (mut failures, mut answer) = (0, None);
        loop {
            let mut state = self.fresh(name).await?.clone();
            // The answer of an earlier try was lost.
            if answer.is_some() && stored(&state, &mine.app_id).await? >= sequence {
                return Ok(answer);
            }
            let found = self.found(&state, &asked).await?;
            let Some(wanted) = decide(&found)? else { return Ok(None) };
            let mut transactions = wanted.transactions;
            transactions.push(mine.clone());
            let rows = wanted.rows.into_iter().collect();
            let tried = match log::write(&state, name, rows).await {
                Ok(adds) => log::commit_exactly(&mut state, adds, transactions).await,
                Err(error) => Err(error),
            };
            answer = Some(wanted.answer);
            match tried {
                Ok(()) => return Ok(answer),
                Err(DeltaTableError::Transaction { .. }) => {}
                Err(error) if failures == FAILURES_MAX => return Err(Error::table(name, "commit the rows")(error)),
                Err(_) => failures += 1,
            }
            tokio::time::sleep(Duration::from_millis(20) * (1 << failures)).await;
        }
    }

    async fn found(&self, state: &DeltaTable, asked: &Asked<'_>) -> Result<Found> {
        let mut found = Found { tokens: Vec::new(), versions: Vec::new() };
        for id in &asked.ids {
            found.tokens.push(stored(state, id).await?);
        }
        if let Some(model) = asked.model {
            found.versions = versions_at(self, state, model).await?;
        }
        Ok(found)
    }
}

async fn stored(state: &DeltaTable, id: &str) -> Result<i64> {
    let read = log::transaction(state, id).await;
    Ok(read.map_err(Error::table(FENCED[0], "read the log"))?.unwrap_or(0))
}

/// The tokens that were found are those of the fences, in their order.
fn check(found: &Found, fences: &[Fence]) -> Result<()> {
    for (fence, now) in fences.iter().zip(&found.tokens) {
        if *now > fence.token {
            return Err(Error::Fenced { name: fence.name.clone(), held: fence.token, now: *now });
        }
    }
    Ok(())
}

async fn versions_at(lake: &Lake, state: &DeltaTable, model: &ModelName) -> Result<Vec<Version>> {
    let name = TableName::ModelVersion;
    let session = SessionContext::new();
    let (url, store) = lake.object_store();
    session.register_object_store(&url, store);
    let provider = state.table_provider().await.map_err(Error::query(name))?;
    session.register_table(name.as_str(), provider).map_err(Error::query(name))?;
    let sql = format!("SELECT * FROM {name} WHERE model = '{model}' ORDER BY time");
    let batches = session.sql(&sql).await.map_err(Error::query(name))?.collect().await.map_err(Error::query(name))?;
    let mut versions = Vec::new();
    for batch in &batches {
        versions.extend(model_version::read(batch)?);
    }
    Ok(versions)
}
