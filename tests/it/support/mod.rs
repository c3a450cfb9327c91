//! Builders that the tests share.

pub mod chat;
pub mod faulty;
pub mod kafka;
pub mod lake;
pub mod parts;
pub mod python;
pub mod registry;
pub mod serve;
pub mod tables;
