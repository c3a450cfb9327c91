//! The line editor: rustyline with our completion, our idea of a finished statement, and a history file.

use super::complete::{Names, complete};
use super::input::is_complete;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter};
use std::path::PathBuf;

/// Statements that the history keeps.
const HISTORY_MAX: usize = 2000;

#[derive(Helper, Hinter, Highlighter)]
struct ShellHelper {
    names: Names,
}

impl Completer for ShellHelper {
    type Candidate = String;

    fn complete(&self, line: &str, cursor: usize, _context: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(complete(line, cursor, &self.names))
    }
}

impl Validator for ShellHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        if is_complete(context.input()) { Ok(ValidationResult::Valid(None)) } else { Ok(ValidationResult::Incomplete) }
    }
}

/// The terminal's editor. It moves into a thread for each line, because reading a terminal blocks.
pub(super) struct ShellEditor {
    editor: Editor<ShellHelper, DefaultHistory>,
    history: Option<PathBuf>,
}

impl ShellEditor {
    pub(super) fn new(names: Names, history: Option<PathBuf>) -> Result<Self, ReadlineError> {
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(ShellHelper { names }));
        if let Some(path) = &history {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(ReadlineError::Io)?;
            }
            // The first time there is none; an unreadable one is no reason to refuse a query.
            if let Err(error) = editor.load_history(path) {
                tracing::debug!(path = %path.display(), %error, "no history was read");
            }
        }
        Ok(Self { editor, history })
    }

    /// The next finished text; `None` when the user leaves by Ctrl-D. Ctrl-C gives an empty text.
    pub(super) async fn read(mut self, prompt: &'static str) -> Result<(Self, Option<String>), ReadlineError> {
        let reading = tokio::task::spawn_blocking(move || {
            let line = self.editor.readline(prompt);
            (self, line)
        });
        let (mut editor, line) = reading.await.map_err(|e| ReadlineError::Io(std::io::Error::other(e)))?;
        match line {
            Ok(line) => {
                editor.remember(&line);
                Ok((editor, Some(line)))
            }
            Err(ReadlineError::Interrupted) => Ok((editor, Some(String::new()))),
            Err(ReadlineError::Eof) => Ok((editor, None)),
            Err(error) => Err(error),
        }
    }

    /// Keeps the line, in the file at once: a shell that is killed loses nothing, and two shells add to one history.
    fn remember(&mut self, line: &str) {
        let kept = self.editor.add_history_entry(line);
        let written = match &self.history {
            Some(path) if matches!(kept, Ok(true)) => self.editor.append_history(path),
            _ => kept.map(drop),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the line was not remembered");
        }
    }
}
