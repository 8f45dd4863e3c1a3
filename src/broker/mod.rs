//! The embedded broker: an nsqd in this program.

pub mod log;
