//! Text that strangers wrote, made harmless in HTML.

/// The text for element content and for attributes in double quotes. Control characters and the marks that re-order
/// text (Unicode's bidirectional controls) become visible, so that no answer can look like something else.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || is_reordering(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}')
}

/// The escaped text, cut after `chars_max` characters with a note of how many followed.
pub(super) fn shown(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => escape(text),
        Some((at, _)) => format!("{}… ({} more characters)", escape(&text[..at]), text[at..].chars().count()),
    }
}
