//! Real nsqd, with its defaults or with its most durable settings.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::process::Command;

use super::nsq::{NsqConsumer, NsqPublisher};
use super::{Target, TargetProcess};
use crate::commands::common::child_process;
use crate::commands::prove::faults::TargetSettings;
use crate::commands::prove::judge::Durability;

/// nsqd.
#[derive(Debug)]
pub(in crate::commands::prove) struct NsqdTarget {
    pub(in crate::commands::prove) program: PathBuf,
    /// Keeps no message in memory only, and syncs after each: `--mem-queue-size=0 --sync-every=1`.
    pub(in crate::commands::prove) is_durable: bool,
    pub(in crate::commands::prove) durability: Durability,
}

impl NsqdTarget {
    fn settings(&self) -> &'static [&'static str] {
        if self.is_durable { &["--mem-queue-size=0", "--sync-every=1"] } else { &[] }
    }
}

impl Target for NsqdTarget {
    type Publisher = NsqPublisher;
    type Consumer = NsqConsumer;

    fn describe(&self) -> String {
        let settings = if self.is_durable { self.settings().join(" ") } else { "with its defaults".to_owned() };
        format!("nsqd {settings}")
    }

    fn arguments(&self) -> String {
        if self.is_durable { "nsqd-durable" } else { "nsqd" }.to_owned()
    }

    fn program(&self) -> anyhow::Result<PathBuf> {
        Ok(self.program.clone())
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn is_ordered(&self) -> bool {
        false
    }

    fn can_defer(&self) -> bool {
        true
    }

    async fn start(&self, folder: &Path, settings: &TargetSettings) -> anyhow::Result<TargetProcess> {
        let any = "127.0.0.1:0";
        let args = ["--tcp-address", any, "--http-address", any, "--broadcast-address", "127.0.0.1"];
        let mut command = child_process::command(Command::new(&self.program), &args);
        command.args(self.settings()).arg(format!("--max-bytes-per-file={}", settings.file_bytes));
        command.arg("--data-path").arg(folder);
        let mut process =
            TargetProcess::start(command, settings).with_context(|| self.program.display().to_string())?;
        process.wait_for_address("TCP: listening on ").await?;
        NsqPublisher::connect(&process.address).await.context("it does not answer")?;
        process.has_answered();
        Ok(process)
    }

    async fn publisher(&self, process: &TargetProcess) -> io::Result<NsqPublisher> {
        NsqPublisher::connect(&process.address).await
    }

    async fn consumer(&self, process: &TargetProcess, in_flight: u32) -> io::Result<NsqConsumer> {
        NsqConsumer::connect(&process.address, in_flight).await
    }
}
