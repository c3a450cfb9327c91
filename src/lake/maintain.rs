//! What keeps tables fast and no commit should wait for: checkpoints and the clean-up of old log entries.

use super::error::{Error, Result};
use super::{Lake, TableName, log};
use deltalake::checkpoints::{cleanup_metadata, create_checkpoint};
use object_store::ObjectStoreExt as _;
use serde::Deserialize;

/// A checkpoint is written when this many commits follow the last one.
const COMMITS_BETWEEN_CHECKPOINTS: i64 = 50;

/// What one round of maintenance did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Maintained {
    /// Checkpoints written.
    pub checkpoints: usize,
    /// Log files deleted that no readable version needs.
    pub log_files_deleted: usize,
}

impl Lake {
    /// One round over all tables: a checkpoint where enough commits have passed, and with it the clean-up of log entries
    /// past their retention. Several processes may do so at once: the outcome is the same.
    ///
    /// # Errors
    /// [`Error::Table`] where a table could not be maintained; the others were.
    pub async fn maintain(&self) -> Result<Maintained> {
        let mut done = Maintained::default();
        let mut failed = None;
        for name in TableName::ALL {
            match self.maintain_table(name).await {
                Ok(one) => {
                    done.checkpoints += one.checkpoints;
                    done.log_files_deleted += one.log_files_deleted;
                }
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(done), Err)
    }

    async fn maintain_table(&self, name: TableName) -> Result<Maintained> {
        // A copy, so that no reader waits while the checkpoint is written.
        let table = self.fresh(name).await?.clone();
        if log::version_of(&table) - last_checkpoint(&table).await < COMMITS_BETWEEN_CHECKPOINTS {
            return Ok(Maintained::default());
        }
        create_checkpoint(&table, None).await.map_err(Error::table(name, "write a checkpoint"))?;
        let deleted = cleanup_metadata(&table, None).await.map_err(Error::table(name, "clean the log up"))?;
        Ok(Maintained { checkpoints: 1, log_files_deleted: deleted })
    }
}

/// The version of the last checkpoint; 0 where there is none or its pointer is unreadable (it is only a hint).
async fn last_checkpoint(table: &deltalake::DeltaTable) -> i64 {
    #[derive(Deserialize)]
    struct Hint {
        version: i64,
    }
    let path = deltalake::Path::from("_delta_log/_last_checkpoint");
    let Ok(found) = table.object_store().get(&path).await else { return 0 };
    let Ok(bytes) = found.bytes().await else { return 0 };
    serde_json::from_slice::<Hint>(&bytes).map_or(0, |hint| hint.version)
}
