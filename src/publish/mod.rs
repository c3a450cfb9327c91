//! Report and adapter to a registered version and its event.
