//! One try of one call: what it met, and whether another try can help.

use super::wire::{Chat, Reply, read};
use super::{Endpoint, Error};
use reqwest::{Response, StatusCode};
use std::time::Duration;

/// Answers beyond this are cut off, and are then no JSON.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How much of an answer an error shows.
const EXCERPT_CHARS: usize = 200;

/// What a try met.
pub(super) enum Fault {
    /// Another try may help, after the pause that the server asked for.
    Passing { last: String, after: Option<Duration> },
    /// It will not.
    Lasting { status: StatusCode, body: String },
}

impl Fault {
    pub(super) fn refusal(self, url: String) -> Error {
        match self {
            Self::Lasting { status, body } => Error::Refused { url, status: status.as_u16(), body },
            Self::Passing { last, .. } => Error::GaveUp { url, tries: 1, last },
        }
    }

    fn passing(last: impl Into<String>) -> Self {
        Self::Passing { last: last.into(), after: None }
    }
}

impl Endpoint {
    pub(super) async fn attempt(&self, chat: &Chat) -> Result<Reply, Fault> {
        let mut request = self.client.post(self.address.clone()).json(&chat.body(&self.settings.model));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|e| Fault::passing(plain(e)))?;
        let status = response.status();
        let after = retry_after(&response);
        let body = body(response).await.map_err(|e| Fault::passing(plain(e)))?;
        if status.is_success() {
            return read(&body, chat).map_err(|why| Fault::passing(format!("{why}: {}", excerpt(&body))));
        }
        let body = excerpt(&body);
        if may_pass(status) {
            return Err(Fault::Passing { last: format!("{status}: {body}"), after });
        }
        Err(Fault::Lasting { status, body })
    }
}

fn may_pass(status: StatusCode) -> bool {
    let asked_to_wait = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY];
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED || asked_to_wait.contains(&status)
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    (date.to_utc() - chrono::Utc::now()).to_std().ok()
}

async fn body(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let short: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EXCERPT_CHARS).collect();
    if short.is_empty() { "(an empty body)".to_owned() } else { short }
}

/// An error of the transport with its causes, which alone say what happened, and without its address.
fn plain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    if error.is_timeout() { format!("no answer in time: {text}") } else { text }
}
