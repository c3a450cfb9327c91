//! Pelton.
fn main() {}
