//! Who may ask, and how much. Keys are known by their SHA-256 only; all of them are compared, each in constant time, so that
//! neither a match's place nor a wrong key's nearness shows in how long a refusal takes.

use crate::config::ClientKey;
use crate::telemetry::metric;
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The clients that may ask.
pub struct Keys {
    clients: Vec<Arc<Client>>,
    under_way: Arc<AtomicI64>,
    under_way_max: i64,
}

/// A client.
pub struct Client {
    /// Its name.
    pub name: String,
    hash: [u8; 32],
    per_minute: Option<u32>,
    at_once: Option<u32>,
    under_way: AtomicU32,
    bucket: Mutex<Bucket>,
}

/// Requests that may be made now; it fills up at the rate of the limit.
struct Bucket {
    left: f64,
    filled: Instant,
}

/// Why nobody may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// No key, or one that is not known.
    Unknown,
    /// Too much; to be tried again after so long.
    Limit {
        /// Which limit.
        what: &'static str,
        /// After how long.
        after: Duration,
    },
}

/// A request that may be made; it counts until this is dropped.
pub struct Admitted {
    all: Option<Arc<AtomicI64>>,
    client: Option<Arc<Client>>,
}

impl Keys {
    /// The keys of the configuration.
    #[must_use]
    pub fn new(keys: &[ClientKey], requests_max: usize) -> Self {
        let client = |key: &ClientKey| {
            let mut hash = [0; 32];
            for (byte, pair) in hash.iter_mut().zip(key.sha256.as_bytes().chunks_exact(2)) {
                let digits = std::str::from_utf8(pair).unwrap_or_default();
                *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
            }
            let left = f64::from(key.requests_per_minute.unwrap_or_default());
            Arc::new(Client {
                name: key.name.clone(),
                hash,
                per_minute: key.requests_per_minute,
                at_once: key.requests_max,
                under_way: AtomicU32::new(0),
                bucket: Mutex::new(Bucket { left, filled: Instant::now() }),
            })
        };
        let under_way_max = i64::try_from(requests_max).unwrap_or(i64::MAX);
        Self { clients: keys.iter().map(client).collect(), under_way: Arc::default(), under_way_max }
    }

    /// Whether a key is needed at all.
    #[must_use]
    pub fn are_needed(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Requests under way.
    #[must_use]
    pub fn under_way(&self) -> i64 {
        self.under_way.load(Relaxed)
    }

    /// Admits a request by its `authorization` header; gives the client where keys are needed.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn admit(&self, authorization: Option<&[u8]>) -> Result<(Option<Arc<Client>>, Admitted), Denied> {
        let client = if self.are_needed() { Some(self.find(authorization).ok_or(Denied::Unknown)?) } else { None };
        let all = self.under_way.fetch_add(1, Relaxed) + 1;
        metric::SIDECAR_IN_FLIGHT.set(all);
        // It counts from here on, and no longer where a limit stands in the way: `admitted` is dropped then.
        if let Some(client) = &client {
            client.under_way.fetch_add(1, Relaxed);
        }
        let admitted = Admitted { all: Some(Arc::clone(&self.under_way)), client: client.clone() };
        let limit = |what, after| Err(Denied::Limit { what, after });
        if all > self.under_way_max {
            return limit("too many requests are under way", Duration::from_secs(1));
        }
        if let Some(client) = &client {
            if client.at_once.is_some_and(|most| client.under_way.load(Relaxed) > most) {
                return limit("too many requests of this key are under way", Duration::from_secs(1));
            }
            if let Some(after) = client.take() {
                return limit("too many requests of this key in a minute", after);
            }
        }
        Ok((client, admitted))
    }

    fn find(&self, authorization: Option<&[u8]>) -> Option<Arc<Client>> {
        let key = authorization
            .and_then(|value| value.split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let hash = Sha256::digest(key.map_or(&[][..], |(_, key)| key));
        let mut found = None;
        for client in &self.clients {
            let differs = client.hash.iter().zip(hash.iter()).fold(0, |differs, (a, b)| differs | (a ^ b));
            if std::hint::black_box(differs) == 0 && key.is_some() {
                found = Some(client);
            }
        }
        found.cloned()
    }
}

impl Client {
    /// Takes one request from the bucket, or says after how long there is one.
    fn take(&self) -> Option<Duration> {
        let per_minute = f64::from(self.per_minute?);
        let mut bucket = self.bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let since = now.duration_since(bucket.filled).as_secs_f64();
        bucket.left = (bucket.left + since * per_minute / 60.0).min(per_minute);
        bucket.filled = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64((1.0 - bucket.left) * 60.0 / per_minute))
    }
}

impl Admitted {
    /// For copies of requests, which no limit counts.
    #[must_use]
    pub fn uncounted() -> Self {
        Self { all: None, client: None }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(all) = &self.all {
            metric::SIDECAR_IN_FLIGHT.set(all.fetch_sub(1, Relaxed) - 1);
        }
        if let Some(client) = &self.client {
            client.under_way.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, key: &str, per_minute: Option<u32>, at_once: Option<u32>) -> ClientKey {
        let sha256 = Sha256::digest(key).iter().map(|b| format!("{b:02x}")).collect();
        ClientKey { name: name.to_owned(), sha256, requests_per_minute: per_minute, requests_max: at_once }
    }

    #[test]
    fn a_key_is_the_very_one_and_limits_hold() {
        let keys = Keys::new(&[key("a", "sk-1", None, Some(1)), key("b", "sk-2", Some(2), None)], 10);
        for wrong in [None, Some(&b"sk-1"[..]), Some(b"Bearer "), Some(b"Bearer sk-"), Some(b"Bearer sk-12")] {
            assert_eq!(keys.admit(wrong).err(), Some(Denied::Unknown));
        }
        let (client, first) = keys.admit(Some(b"bearer sk-1")).map_err(|d| format!("{d:?}")).unwrap();
        assert_eq!(client.unwrap().name, "a");
        assert!(matches!(keys.admit(Some(b"Bearer sk-1")), Err(Denied::Limit { .. })), "two at once");
        drop(first);
        assert!(keys.admit(Some(b"Bearer sk-1")).is_ok());
        let b = || keys.admit(Some(b"Bearer sk-2"));
        assert!(b().is_ok() && b().is_ok());
        let Err(Denied::Limit { after, .. }) = b() else { panic!("three in a minute") };
        assert!(after > Duration::from_secs(20) && after <= Duration::from_secs(30), "{after:?}");
        assert_eq!(keys.under_way(), 0);
        let open = Keys::new(&[], 1);
        let held = open.admit(None).map_err(|d| format!("{d:?}")).unwrap();
        assert!(open.admit(None).is_err());
        drop(held);
    }
}
