//! TOML to a trusted [`Config`]: versioned, unknown fields denied, every problem reported at once with its path.
