//! mqueue
pub mod backoff;
pub mod client;
pub mod proto;
