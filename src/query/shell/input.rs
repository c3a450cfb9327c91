//! What a typed text is: nothing yet, a command, or a whole statement.

/// A text that the user has finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Blank, or only comments.
    Nothing,
    /// A command with a dot.
    Command(Command),
    /// A statement, its `;` taken off.
    Statement(String),
}

/// A command of the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Leave.
    Quit,
    /// Show the commands.
    Help,
    /// List the tables.
    Tables,
    /// List a table's columns.
    Schema(Option<String>),
    /// None of these.
    Unknown(String),
}

/// Reads a finished text.
#[must_use]
pub fn parse(text: &str) -> Input {
    let text = text.trim();
    if text.starts_with('.') {
        return Input::Command(command(text));
    }
    if is_blank(text) {
        return Input::Nothing;
    }
    // With more text behind the `;` the whole goes on, so that the session can refuse two statements by name.
    let whole = scan(text).statement_end.filter(|&end| is_blank(&text[end + 1..])).map_or(text, |end| &text[..end]);
    Input::Statement(whole.trim().to_owned())
}

/// Whether Enter ends the text: it is blank, a command, or its statement has its `;` outside quotes and comments.
#[must_use]
pub fn is_complete(text: &str) -> bool {
    let text = text.trim();
    text.starts_with('.') || is_blank(text) || scan(text).statement_end.is_some()
}

fn command(text: &str) -> Command {
    let mut words = text.trim_end_matches(';').split_whitespace();
    match words.next().unwrap_or_default() {
        ".quit" | ".exit" | ".q" => Command::Quit,
        ".help" | ".h" | ".?" => Command::Help,
        ".tables" => Command::Tables,
        ".schema" => Command::Schema(words.next().map(str::to_owned)),
        other => Command::Unknown(other.to_owned()),
    }
}

fn is_blank(text: &str) -> bool {
    let seen = scan(text);
    !seen.has_words && !seen.open
}

/// Where the reader stands in a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Code,
    Quoted(char),
    LineComment,
    BlockComment,
}

struct Scan {
    /// Byte of the first `;` that ends a statement.
    statement_end: Option<usize>,
    /// Anything but white space, comments and `;` was seen.
    has_words: bool,
    /// The text ends inside a quote or a block comment.
    open: bool,
}

/// Walks the text once. A doubled quote inside quotes leaves and enters them again, which comes to the same.
fn scan(text: &str) -> Scan {
    let mut place = Place::Code;
    let mut seen = Scan { statement_end: None, has_words: false, open: false };
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        match place {
            Place::Code => match (c, next) {
                ('-', Some('-')) => place = Place::LineComment,
                ('/', Some('*')) => {
                    chars.next();
                    place = Place::BlockComment;
                }
                ('\'' | '"', _) => {
                    seen.has_words = true;
                    place = Place::Quoted(c);
                }
                (';', _) if seen.statement_end.is_none() => seen.statement_end = Some(at),
                (c, _) if !c.is_whitespace() && c != ';' => seen.has_words = true,
                _ => {}
            },
            Place::Quoted(quote) if c == quote => place = Place::Code,
            Place::LineComment if c == '\n' => place = Place::Code,
            Place::BlockComment if c == '*' && next == Some('/') => {
                chars.next();
                place = Place::Code;
            }
            _ => {}
        }
    }
    seen.open = matches!(place, Place::Quoted(_) | Place::BlockComment);
    seen
}
