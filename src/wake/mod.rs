//! Waking: which groups have messages and nobody awake, and which activation sockets to poke.
//!
//! ```text
//!  /stats, every second ─▶ observe ─▶ decide ─▶ poke GROUP.sock ─▶ systemd starts the consumer
//!  a message, at once   ─▶ edge    ─▶ arrived ─┘
//! ```

#[doc(hidden)]
pub mod crowd;
pub mod decide;
pub mod edge;
pub mod fleet;
pub mod memory;
pub mod observe;
pub mod peer;
pub mod poke;
pub mod shell_commands;
pub mod trouble;
pub mod unit;
