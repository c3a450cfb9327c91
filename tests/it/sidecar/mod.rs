//! Promises of the sidecar, each seen at a process of its own, between a server that behaves as it is told and a real Kafka.

mod clients;
mod double;
mod faults;
mod logging;
mod proxying;
mod rig;
mod security;
mod versions;
