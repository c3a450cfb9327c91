//! One file a subcommand; parses, calls, prints.
