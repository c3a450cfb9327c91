//! One event to one address, signed after Standard Webhooks 1.0.
//!
//! `webhook-id` is the event's id, the same at every try; `webhook-timestamp` the seconds of this try; `webhook-signature` is
//! `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body` by the secret's bytes. The body is the event in CloudEvents'
//! structured mode.

use crate::config::Webhook;
use crate::runtime::now;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// SHA-256 works on blocks of this many bytes.
const BLOCK: usize = 64;

/// Why an address did not take an event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret is not of the standard's form.
    #[error("publish.webhooks: the secret of `{0}` is not `whsec_` and base64")]
    Secret(String),
    /// It could not be reached, or did not answer in time.
    #[error("webhook `{name}` did not answer")]
    Away {
        /// The webhook.
        name: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// It answered that it does not take it.
    #[error("webhook `{name}` answered {status}; 2xx acknowledges an event")]
    Refused {
        /// The webhook.
        name: String,
        /// Its answer.
        status: u16,
    },
}

/// The header `webhook-signature` for a message.
///
/// # Errors
/// [`Error::Secret`].
pub fn sign(hook: &Webhook, id: &str, timestamp_seconds: i64, body: &[u8]) -> Result<String, Error> {
    let key = hook.secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let key = key.ok_or_else(|| Error::Secret(hook.name.clone()))?;
    let signed = [format!("{id}.{timestamp_seconds}.").as_bytes(), body].concat();
    Ok(format!("v1,{}", STANDARD.encode(hmac_sha256(&key, &signed))))
}

/// Posts an event; a redirection is no acknowledgement.
///
/// # Errors
/// [`Error`] with what the address said.
pub async fn post(hook: &Webhook, id: &str, body: &[u8]) -> Result<(), Error> {
    let timestamp = now().micros() / 1_000_000;
    let signature = sign(hook, id, timestamp, body)?;
    let away = |source| Error::Away { name: hook.name.clone(), source };
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().map_err(away)?;
    let request = client
        .post(&hook.url)
        .timeout(Duration::from_millis(hook.timeout_ms))
        .header("content-type", crate::codec::event::STRUCTURED)
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp.to_string())
        .header("webhook-signature", signature)
        .body(body.to_vec());
    let status = request.send().await.map_err(away)?.status();
    if status.is_success() { Ok(()) } else { Err(Error::Refused { name: hook.name.clone(), status: status.as_u16() }) }
}

/// RFC 2104. Written out: thirty lines of a crate for these eight would be one more thing to trust.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let hashed = Sha256::digest(key);
    let key = if key.len() > BLOCK { hashed.as_slice() } else { key };
    let pad = |byte: u8| -> Vec<u8> { (0..BLOCK).map(|i| key.get(i).copied().unwrap_or(0) ^ byte).collect() };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let check = |key: &[u8], message: &[u8], expected: &str| assert_eq!(hex(hmac_sha256(key, message)), expected);
        check(&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }
}
