//! Asks a schema registry, on a thread of its own, for the schemas that messages name.
//!
//! A registry that is away, or refuses, is asked again with growing pauses until the process ends: it is waited for as a
//! store is, and no message becomes a dead letter for it. Ids are asked for in turn, so that one which gets no answer holds
//! up no other. An id that the registry does not know is told at once.

use super::error::Error;
use crate::codec::avro;
use crate::codec::registry::{Known, SchemaId, Schemas};
use crate::config;
use crate::runtime::{Backoff, Shutdown};
use crate::telemetry::Event;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use url::Url;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Tries of who waits for the answer.
const LOOK_UPS_MAX: u32 = 4;
/// Schemas that a schema may name, with those that they name.
const REFERENCES_MAX: usize = 100;

/// The answer to a schema's id.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    schema: String,
    #[serde(default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize, Clone)]
struct Reference {
    subject: String,
    version: i64,
}

/// Why there is no answer yet.
#[derive(Debug, thiserror::Error)]
enum Away {
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("{url} answers {status}")]
    Status { url: Url, status: StatusCode },
}

/// Looks schemas up one by one, for who waits for the answer.
#[derive(Debug)]
pub struct SchemaLookup {
    asker: Asker,
}

impl SchemaLookup {
    /// Answers into schemas of its own.
    ///
    /// # Errors
    /// [`Error::Registry`] where the client cannot be made.
    pub fn new(config: &config::Registry) -> Result<Self, Error> {
        let asker = Asker::new(config, Schemas::default(), PAUSE_FIRST, Shutdown::new()).map_err(Error::Registry)?;
        Ok(Self { asker })
    }

    /// The schemas that were found so far; a cheap handle.
    #[must_use]
    pub fn schemas(&self) -> Schemas {
        self.asker.schemas.clone()
    }

    /// Asks for a schema, a few times where the registry does not answer; the answer is among the schemas then.
    ///
    /// # Errors
    /// [`Error::Registry`] where it stays away.
    pub async fn look_up(&self, id: SchemaId) -> Result<(), Error> {
        let mut backoff = Backoff::new(PAUSE_FIRST, Duration::from_secs(2));
        loop {
            match self.asker.ask(id).await {
                Ok(known) => {
                    self.asker.schemas.put(id, known);
                    return Ok(());
                }
                Err(away) if backoff.tries() >= LOOK_UPS_MAX => return Err(Error::Registry(Box::new(away))),
                Err(_) => tokio::time::sleep(backoff.next_pause()).await,
            }
        }
    }
}

/// Asks for schemas; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    wanted: Sender<SchemaId>,
}

impl Registry {
    /// Starts to answer into `schemas`. The thread ends with the last handle, or with the shutdown.
    pub(super) fn start(
        config: &config::Registry,
        schemas: Schemas,
        pause_max: Duration,
        shutdown: Shutdown,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (wanted, orders) = channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asker = Asker::new(config, schemas, pause_max, shutdown)?;
        thread::Builder::new().name("schema-registry".to_owned()).spawn(move || asker.work(&runtime, &orders))?;
        Ok(Self { wanted })
    }

    /// Asks for a schema; the answer will be among the schemas known.
    pub(super) fn want(&self, id: SchemaId) {
        // Its thread ends with the process only.
        self.wanted.send(id).ok();
    }
}

#[derive(Debug)]
struct Asker {
    client: Client,
    base: Url,
    config: config::Registry,
    schemas: Schemas,
    pause_max: Duration,
    shutdown: Shutdown,
}

impl Asker {
    fn new(
        config: &config::Registry,
        schemas: Schemas,
        pause_max: Duration,
        shutdown: Shutdown,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let client = Client::builder().timeout(Duration::from_millis(config.timeout_ms)).build()?;
        Ok(Self { client, base: config.url.parse()?, config: config.clone(), schemas, pause_max, shutdown })
    }

    fn work(self, runtime: &tokio::runtime::Runtime, orders: &Receiver<SchemaId>) {
        let mut open = BTreeSet::new();
        let mut backoff = Backoff::new(PAUSE_FIRST, self.pause_max);
        let mut pause = self.pause_max;
        while !self.shutdown.is_cancelled() {
            match orders.recv_timeout(if open.is_empty() { self.pause_max } else { pause }) {
                Ok(id) => drop(open.insert(id)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            open.extend(orders.try_iter());
            open.retain(|id| self.schemas.get(*id).is_none());
            let mut failed = None;
            for id in open.clone() {
                match runtime.block_on(self.ask(id)) {
                    Ok(known) => {
                        self.schemas.put(id, known);
                        open.remove(&id);
                    }
                    Err(away) => failed = Some(away),
                }
            }
            match failed {
                Some(away) => {
                    if backoff.tries() == 0 {
                        let error = &format!("{:#}", anyhow::Error::new(away));
                        Event::Away { what: "schema registry", error }.emit();
                    }
                    pause = backoff.next_pause();
                }
                None if backoff.tries() > 0 => {
                    Event::Back { what: "schema registry" }.emit();
                    backoff.reset();
                }
                None => {}
            }
        }
    }

    async fn ask(&self, id: SchemaId) -> Result<Known, Away> {
        let url = self.url(&["schemas", "ids", &id.0.to_string()]);
        let Some(found) = self.get::<Found>(url).await? else {
            return Ok(Known::Unusable("the registry knows no schema of this id".into()));
        };
        match found.schema_type.as_deref().unwrap_or("AVRO") {
            "JSON" => return Ok(Known::Json),
            "AVRO" => {}
            other => {
                let why = format!("its type is {other}; AVRO and JSON are read");
                return Ok(Known::Unusable(why.into()));
            }
        }
        let Some(references) = self.references(found.references).await? else {
            return Ok(Known::Unusable(
                "the registry does not know a schema that it names, or it names too many".into(),
            ));
        };
        Ok(match avro::Schema::parse(&found.schema, &references) {
            Ok(schema) => Known::Avro(Arc::new(schema)),
            Err(e) => Known::Unusable(format!("the registry's schema cannot be read: {e}").into()),
        })
    }

    /// The schemas that a schema names, each after those that it names itself; nothing where one is unknown.
    async fn references(&self, named: Vec<Reference>) -> Result<Option<Vec<String>>, Away> {
        let (mut texts, mut queue, mut asked) = (Vec::new(), named, 0);
        let mut seen = BTreeSet::new();
        while !queue.is_empty() {
            let mut next = Vec::new();
            for reference in queue {
                asked += 1;
                if asked > REFERENCES_MAX {
                    return Ok(None);
                }
                let version = reference.version.to_string();
                let url = self.url(&["subjects", &reference.subject, "versions", &version]);
                let Some(found) = self.get::<Found>(url).await? else { return Ok(None) };
                next.extend(found.references);
                texts.push(found.schema);
            }
            queue = next;
        }
        // Those that are named by others were found last; of a schema that is named twice the first reading counts.
        texts.reverse();
        texts.retain(|text| seen.insert(text.clone()));
        Ok(Some(texts))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("the configuration admits only URLs with a host").pop_if_empty().extend(path);
        url
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match (&self.config.username, &self.config.token) {
            (Some(user), _) => request.basic_auth(user, self.config.password.as_ref().map(config::Secret::reveal)),
            (None, Some(token)) => request.bearer_auth(token.reveal()),
            (None, None) => request,
        }
    }

    /// What the registry has there; nothing where it says that there is nothing.
    async fn get<T: serde::de::DeserializeOwned>(&self, url: Url) -> Result<Option<T>, Away> {
        let request = self.client.get(url.clone()).header("accept", "application/vnd.schemaregistry.v1+json");
        let answer = self.authorised(request).send().await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer.json().await?)),
            StatusCode::NOT_FOUND => Ok(None),
            // Refused or overloaded: somebody has to act, and no message is at fault.
            status => Err(Away::Status { url, status }),
        }
    }
}
