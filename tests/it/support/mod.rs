//! Builders that the tests share.

pub mod lake;
pub mod tables;
