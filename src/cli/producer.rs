//! `mqueue producer`.

/// Publish messages.
#[derive(Debug, clap::Args)]
pub struct Args {}
