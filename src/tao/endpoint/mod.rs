//! A client of OpenAI's chat completions, for exploring and judging by models that are served elsewhere.
//!
//! Promises that a call is tried again where that can help (429 with its `Retry-After`, 408, 5xx, timeouts, connections that
//! break, answers that are no JSON) and not where it cannot (other refusals), a bounded number of times; that no more calls
//! than configured are under way or begun in a minute; that a budget in tokens and a price is kept; that a reply has as
//! many choices as were asked for, where need be by more calls; and that the API key is in no error and no log.
//!
//! The functions block, as all of [`crate::tao`] does: calls run on a thread of the client's own, so that they may be used
//! inside and outside an asynchronous runtime. Never judges what an answer says.

mod attempt;
mod ledger;
mod pace;
mod wire;

pub use ledger::Spent;
pub use wire::{Chat, Choice, Ending, Reply, TokenLogprob, Usage};

use super::{Progress, Watch};
use crate::config;
use crate::runtime::Backoff;
use attempt::Fault;
use futures::{FutureExt as _, StreamExt as _};
use ledger::Ledger;
use pace::Pace;
use reqwest::Client;
use std::time::Duration;
use tokio::runtime::Runtime;
use url::Url;

/// The first pause after a failed try.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// How often a cancellation is looked for while calls are under way.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("the endpoint {url} cannot be used: {reason}")]
    Settings {
        /// The address as configured.
        url: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The endpoint refused the call; another try would be refused as well.
    #[error("{url} refuses the call with {status}: {body}")]
    Refused {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The answer's beginning.
        body: String,
    },
    /// Every try failed.
    #[error("{url} gave no answer in {tries} tries; the last: {last}")]
    GaveUp {
        /// The address.
        url: String,
        /// Tries made.
        tries: u32,
        /// What the last try met.
        last: String,
    },
    /// The budget does not allow another call.
    #[error("the budget of {url} is spent: {spent}; raise tokens_max or price_max to go on")]
    Budget {
        /// The address.
        url: String,
        /// What was used.
        spent: Spent,
    },
    /// The cancellation flag was set.
    #[error("cancelled")]
    Cancelled,
}

/// One endpoint with its limits and its account.
#[derive(Debug)]
pub struct Endpoint {
    client: Client,
    settings: config::Endpoint,
    address: Url,
    key: Option<String>,
    pace: Pace,
    ledger: Ledger,
    /// Present until the drop, which must not wait for it.
    runtime: Option<Runtime>,
}

impl Endpoint {
    /// A client for an endpoint; nothing is sent yet. The API key is read from the environment here.
    ///
    /// # Errors
    /// [`Error::Settings`] for an address that is none, or a key's variable that is not set.
    pub fn open(settings: &config::Endpoint) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Settings { url: shown(&settings.url), reason };
        let address = address(&settings.url).map_err(wrong)?;
        let key = settings.api_key().map_err(|name| {
            wrong(format!("api_key_env names {name}, which is not set in the environment; export it, or leave it out"))
        })?;
        let mut builder = Client::builder().timeout(Duration::from_millis(settings.timeout_ms));
        // A proxy of the environment never knows what listens on this machine's own loopback.
        if address.host_str().is_some_and(|h| h == "localhost" || h.starts_with("127.") || h == "[::1]") {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| wrong(e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("endpoint")
            .enable_all()
            .build()
            .map_err(|e| wrong(e.to_string()))?;
        Ok(Self {
            client,
            settings: settings.clone(),
            address,
            key,
            pace: Pace::new(settings.requests_per_minute),
            ledger: Ledger::new(settings),
            runtime: Some(runtime),
        })
    }

    /// The model's name there.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.settings.model
    }

    /// What was used so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.ledger.spent()
    }

    /// Makes one call and waits for its reply.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ask(&self, chat: &Chat) -> Result<Reply, Error> {
        self.block_on(self.whole(chat))
    }

    /// Makes many calls, as many at once as configured; the replies stand in the calls' order, each for itself: one that
    /// failed does not end the others. `watch` hears of each that ended, under the name `what`; once it is cancelled, the
    /// calls without a reply have [`Error::Cancelled`].
    #[must_use]
    pub fn ask_all(&self, what: &'static str, chats: &[Chat], watch: &Watch<'_>) -> Vec<Result<Reply, Error>> {
        self.block_on(async {
            let mut calls = Vec::with_capacity(chats.len());
            for (at, chat) in chats.iter().enumerate() {
                calls.push(async move { (at, self.whole(chat).await) }.boxed());
            }
            let mut under_way = futures::stream::iter(calls).buffer_unordered(self.settings.concurrency);
            let mut replies: Vec<Option<Result<Reply, Error>>> = vec![None; chats.len()];
            let mut look_around = tokio::time::interval(LOOK_AROUND);
            let mut done = 0;
            loop {
                tokio::select! {
                    next = under_way.next() => {
                        let Some((at, reply)) = next else { break };
                        replies[at] = Some(reply);
                        done += 1;
                        watch.report(Progress { what, done, total: chats.len() });
                    }
                    _ = look_around.tick() => if watch.is_cancelled() { break },
                }
            }
            replies.into_iter().map(|reply| reply.unwrap_or(Err(Error::Cancelled))).collect()
        })
    }

    /// Runs on the client's own runtime, from a thread that belongs to none: blocking on one inside another panics.
    fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        let runtime = self.runtime.as_ref().expect("the runtime is there until the drop");
        std::thread::scope(|scope| {
            let run = scope.spawn(|| runtime.block_on(future));
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A reply with all its choices: servers that give one choice whatever `n` says are asked again for the rest.
    async fn whole(&self, chat: &Chat) -> Result<Reply, Error> {
        let mut reply = self.one(chat).await?;
        while reply.choices.len() < chat.n as usize {
            let had = u32::try_from(reply.choices.len()).unwrap_or(u32::MAX);
            let rest = Chat {
                n: chat.n - had,
                // Another seed, or the server would give the same choice again.
                seed: chat.seed.map(|seed| crate::tao::rng_seed(&[seed, u64::from(had)])),
                ..chat.clone()
            };
            let more = self.one(&rest).await?;
            reply.usage += more.usage;
            reply.choices.extend(more.choices);
        }
        reply.choices.truncate(chat.n as usize);
        Ok(reply)
    }

    async fn one(&self, chat: &Chat) -> Result<Reply, Error> {
        let url = || shown(self.address.as_str());
        let longest = Duration::from_millis(self.settings.pause_ms_max);
        let mut backoff = Backoff::new(PAUSE_FIRST, longest);
        for tries in 1.. {
            self.pace.turn().await;
            let reserved = self.ledger.reserve(chat).map_err(|spent| Error::Budget { url: url(), spent })?;
            let fault = match self.attempt(chat).await {
                Ok(reply) => {
                    reserved.settle(reply.usage);
                    return Ok(reply);
                }
                Err(fault) => fault,
            };
            drop(reserved);
            let Fault::Passing { last, after } = fault else { return Err(fault.refusal(url())) };
            let gave_up = Error::GaveUp { url: url(), tries, last };
            let pause = after.unwrap_or_else(|| backoff.next_pause());
            if tries >= self.settings.tries_max || pause > longest {
                return Err(gave_up);
            }
            // Who asks to be left alone means all calls, not this one.
            match after {
                Some(pause) => self.pace.rest(pause),
                None => tokio::time::sleep(pause).await,
            }
        }
        unreachable!("the loop ends by an answer or by its last try")
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Dropping a runtime inside another one panics; this does not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn address(base: &str) -> Result<Url, String> {
    let hint = "use the API's base, such as http://127.0.0.1:8000/v1";
    let url: Url = base.parse().map_err(|e| format!("it is no URL ({e}); {hint}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(format!("its scheme is `{}`; {hint}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a user or password; put the key into a variable and name that in api_key_env".to_owned());
    }
    let base = url.as_str().trim_end_matches('/').trim_end_matches("/chat/completions");
    format!("{base}/chat/completions").parse().map_err(|e| format!("it is no URL ({e}); {hint}"))
}

/// An address as errors show it: without user, password and query.
fn shown(url: &str) -> String {
    let Ok(mut url) = url.parse::<Url>() else { return url.to_owned() };
    // Only a URL that cannot have them refuses.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.to_string()
}
