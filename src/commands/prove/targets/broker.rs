//! `mqueue broker` of this program.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use fastrand::Rng;
use tokio::process::Command;

use super::nsq::{NsqConsumer, NsqPublisher};
use super::{Target, TargetProcess, log_damage, sync_word};
use crate::commands::broker::args::SyncWhen;
use crate::commands::common::child_process;
use crate::commands::prove::faults::{FileDamage, TargetSettings};
use crate::commands::prove::history::DamageRecord;
use crate::commands::prove::judge::Durability;

/// The time between two syncs with `--sync interval`.
const INTERVAL: Duration = Duration::from_millis(100);
/// A sync that begins at the end of the interval takes its time, and the one before may still run.
const SYNC_TIME: Duration = Duration::from_millis(400);

/// The folder of the log.
const LOG: &str = "log";

/// The broker.
#[derive(Debug)]
pub(in crate::commands::prove) struct BrokerTarget {
    pub(in crate::commands::prove) sync: SyncWhen,
    /// The mode whose promise the broker is judged by.
    pub(in crate::commands::prove) judge_as: SyncWhen,
}

impl Target for BrokerTarget {
    type Publisher = NsqPublisher;
    type Consumer = NsqConsumer;

    fn describe(&self) -> String {
        let judged = match self.sync == self.judge_as {
            true => String::new(),
            false => format!(", judged as --sync {}", sync_word(self.judge_as)),
        };
        format!("mqueue broker {} --sync {}{judged}", env!("CARGO_PKG_VERSION"), sync_word(self.sync))
    }

    fn arguments(&self) -> String {
        let judged = match self.sync == self.judge_as {
            true => String::new(),
            false => format!(" --judge-as {}", sync_word(self.judge_as)),
        };
        format!("broker --sync {}{judged}", sync_word(self.sync))
    }

    fn program(&self) -> anyhow::Result<PathBuf> {
        std::env::current_exe().context("cannot find this program")
    }

    fn durability(&self) -> Durability {
        match self.judge_as {
            SyncWhen::Always => Durability::Always,
            SyncWhen::Interval => Durability::Within(INTERVAL + SYNC_TIME),
            SyncWhen::Never => Durability::Process,
        }
    }

    fn is_ordered(&self) -> bool {
        false
    }

    fn can_defer(&self) -> bool {
        true
    }

    fn knows_damage(&self) -> bool {
        true
    }

    fn damage(&self, folder: &Path, kind: FileDamage, seed: u64, random: &mut Rng) -> io::Result<Option<DamageRecord>> {
        let folder = folder.join(LOG);
        match kind {
            FileDamage::BitFlip => log_damage::flip_bit(&folder, seed, random),
            FileDamage::Truncation => log_damage::truncate(&folder, seed, random),
        }
    }

    fn check_damage(&self, damage: &DamageRecord, output: &str) -> Result<(), String> {
        log_damage::check_named(damage, output)
    }

    async fn start(&self, folder: &Path, settings: &TargetSettings) -> anyhow::Result<TargetProcess> {
        let program = self.program()?;
        let any = "127.0.0.1:0";
        let args = ["broker", "--tcp-address", any, "--http-address", any, "--broadcast-address", "127.0.0.1"];
        let mut command = child_process::command(Command::new(program), &args);
        command.args(["--sync", sync_word(self.sync), "--data-path"]).arg(folder.join(LOG));
        command.arg(format!("--max-bytes-per-file={}", settings.file_bytes));
        command.arg(format!("--max-memory={}", settings.memory_bytes));
        let mut process = TargetProcess::start(command, settings)?;
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
