//! The whole wheel in one process: the shop, its questions, simulated users and the demo itself.

pub mod questions;
pub mod shop;
