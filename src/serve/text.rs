//! A sample's text as it grows: whole characters only, and nothing that may yet become a stop text.

/// The text of one sample.
pub(super) struct Writer {
    stop: Vec<String>,
    tokens: Vec<u32>,
    /// Tokens before this are in the text for good; those from here on are decoded again with each new one, because a
    /// tokenizer's spaces depend on what stands before.
    sure: usize,
    read: usize,
    /// Text that is not told yet.
    held: String,
}

impl Writer {
    pub(super) fn new(stop: Vec<String>) -> Self {
        Self { stop, tokens: Vec::new(), sure: 0, read: 0, held: String::new() }
    }

    /// Takes a token in; gives the text that is certain by now, and whether a stop text ended it.
    pub(super) fn push(
        &mut self,
        token: u32,
        decode: &impl Fn(&[u32]) -> Result<String, String>,
    ) -> Result<(String, bool), String> {
        self.tokens.push(token);
        let before = decode(&self.tokens[self.sure..self.read])?;
        let now = decode(&self.tokens[self.sure..])?;
        // A replacement character at the end is the begin of a character whose other bytes are to come.
        if now.len() > before.len() && now.starts_with(&before) && !now.ends_with('\u{fffd}') {
            self.held.push_str(&now[before.len()..]);
            self.sure = self.read;
            self.read = self.tokens.len();
        }
        let found = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return Ok((std::mem::take(&mut self.held), true));
        }
        let keep = self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Ok((std::mem::replace(&mut self.held, rest), false))
    }

    /// What was held back, at the end.
    pub(super) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of a text that are the begin of a stop text.
fn overlap(text: &str, stop: &str) -> usize {
    let most = stop.len().saturating_sub(1).min(text.len());
    (1..=most).rev().find(|n| stop.is_char_boundary(*n) && text.ends_with(&stop[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(tokens: &[&[u8]], stop: &[&str]) -> (Vec<String>, bool) {
        let decode = |ids: &[u32]| {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokens[*id as usize]).copied().collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut writer = Writer::new(stop.iter().map(|&s| s.to_owned()).collect());
        let mut pieces = Vec::new();
        for id in 0..tokens.len() {
            let (text, stopped) = writer.push(u32::try_from(id).unwrap(), &decode).unwrap();
            pieces.push(text);
            if stopped {
                return (pieces, true);
            }
        }
        pieces.push(writer.flush());
        (pieces, false)
    }

    #[test]
    fn pieces_are_whole_characters_and_stop_texts_never_show() {
        let whole = |pieces: &[&str]| (pieces.iter().map(|&p| p.to_owned()).collect::<Vec<_>>(), false);
        assert_eq!(written(&[b"a", b" b"], &[]), whole(&["a", " b", ""]));
        assert_eq!(written(&["🌍".as_bytes(), b"x"], &[]), whole(&["🌍", "x", ""]));
        assert_eq!(written(&[&[0xf0, 0x9f], &[0x8c, 0x8d], b"!"], &[]), whole(&["", "🌍", "!", ""]));
        assert_eq!(written(&[b"a;", b";", b"b"], &[";;;"]), whole(&["a", "", ";;b", ""]));
        assert_eq!(written(&[b"a", b"ENDx"], &["END"]), (vec!["a".to_owned(), String::new()], true));
        assert_eq!(
            written(&[b"aE", b"N", b"D"], &["X", "END"]),
            (vec!["a".to_owned(), String::new(), String::new()], true)
        );
    }
}
