//! Chat messages in the one form that hashes and tables use.

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool` or whatever the client sent.
    pub role: String,
    /// The text; multi-part content is its text parts joined by a line break.
    pub content: String,
}

/// All that the user of a conversation says, turn by turn on lines of their own.
#[must_use]
pub fn user_text(messages: &[ChatMessage]) -> String {
    messages.iter().filter(|m| m.role == "user").map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n")
}

impl ChatMessage {
    /// A user's turn.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".to_owned(), content: content.into() }
    }
}

/// Writes messages as compact JSON, keys in the order role, content, with only the escapes that JSON demands.
///
/// Written by hand because this text is hashed: it must not change with a library's version.
#[must_use]
pub fn canonical_json(messages: &[ChatMessage]) -> String {
    let mut out =
        String::with_capacity(messages.iter().map(|m| m.role.len() + m.content.len() + 32).sum::<usize>() + 2);
    out.push('[');
    for (i, message) in messages.iter().enumerate() {
        out.push_str(if i == 0 { "{\"role\":\"" } else { ",{\"role\":\"" });
        push_canonical(&mut out, &message.role);
        out.push_str("\",\"content\":\"");
        push_canonical(&mut out, &message.content);
        out.push_str("\"}");
    }
    out.push(']');
    out
}

/// Writes a text as it stands between the quotes of canonical JSON.
pub fn push_canonical(out: &mut String, text: &str) {
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => out.push_str(&format!("\\u{control:04x}")),
        }
    }
    out.push_str(&text[plain_from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_is_json_and_keeps_the_text() {
        for text in ["", "plain", "\"quoted\" \\ \n\t\r \u{1} ü 漢 🦀"] {
            let json = canonical_json(&[ChatMessage::user(text), ChatMessage::user("b")]);
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value[0]["content"], text);
            assert_eq!(value[1]["role"], "user");
        }
        assert_eq!(canonical_json(&[]), "[]");
    }
}
