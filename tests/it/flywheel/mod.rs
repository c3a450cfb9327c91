//! The flywheel by itself: cycles that are killed, cancelled, parked and taken over; versions that change hands; events that are
//! never lost.

mod events;
mod kills;
mod orders;
mod registry;
mod rig;
mod rollback;
mod seat;
