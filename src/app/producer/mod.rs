//! `mqueue producer`.

/// Runs the command to its end.
pub async fn run(_: crate::cli::producer::Args) -> anyhow::Result<super::Exit> {
    Ok(super::Exit::Success)
}
