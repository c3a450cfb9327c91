//! W3C's trace context: the caller's trace goes on with a span of ours, or one begins here.

use std::fmt;

use hyper::header::HeaderValue;

/// A `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    trace: String,
    span: String,
    flags: String,
}

impl Trace {
    /// The trace of a request, with a new span.
    #[must_use]
    pub fn of(header: Option<&HeaderValue>) -> Self {
        let bits = uuid::Uuid::new_v4().simple().to_string();
        let span = bits[..16].to_owned();
        let (trace, flags) = header
            .and_then(|value| value.to_str().ok())
            .and_then(parse)
            .unwrap_or_else(|| (uuid::Uuid::new_v4().simple().to_string(), "01".to_owned()));
        Self { trace, span, flags }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{}", self.trace, self.span, self.flags)
    }
}

/// The trace's id and flags.
fn parse(text: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = text.trim().split('-').collect();
    let [version, trace, span, flags, ..] = parts[..] else { return None };
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    let fine = hex(version, 2) && version != "ff" && hex(trace, 32) && !zero(trace) && hex(span, 16) && !zero(span);
    (fine && hex(flags, 2)).then(|| (trace.to_owned(), flags.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_with_another_span() {
        let given = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        let text = Trace::of(Some(&given)).to_string();
        assert!(text.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && text.ends_with("-00"), "{text}");
        assert!(!text.contains("b7ad6b7169203331"));
        for wrong in ["", "00-0-0-00", "00-00000000000000000000000000000000-b7ad6b7169203331-00"] {
            let text = Trace::of(Some(&HeaderValue::from_str(wrong).unwrap())).to_string();
            assert!(parse(&text).is_some() && text.ends_with("-01"), "{text}");
        }
    }
}
