//! SQL over the tables: sessions, output formats and the interactive shell.
