//! Programs that listen on a port which they are told, and that keep the order of messages.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::process::Command;

use super::{Target, TargetConsumer, TargetProcess, TargetPublisher, sync_word};
use crate::commands::broker::args::SyncWhen;
use crate::commands::prove::faults::TargetSettings;
use crate::commands::prove::judge::Durability;

/// A program, and the clients of its protocol.
pub(in crate::commands::prove) trait PortProgram {
    /// The target's name on the command line.
    const TARGET: &'static str;
    type Publisher: TargetPublisher;
    type Consumer: TargetConsumer;

    /// The program and its settings, for people.
    fn describe(sync: SyncWhen) -> String;

    /// The command that starts the program on its data in `folder`.
    fn command(
        program: &Path,
        port: u16,
        sync: SyncWhen,
        folder: &Path,
        settings: &TargetSettings,
    ) -> io::Result<Command>;

    /// Prepares the queue; fails until the program answers.
    async fn prepare(address: &str) -> io::Result<()>;

    /// Connects a publisher.
    async fn publisher(address: &str) -> io::Result<Self::Publisher>;

    /// Connects a consumer that has at most this many messages in flight.
    async fn consumer(address: &str, in_flight: u32) -> io::Result<Self::Consumer>;
}

/// A target of such a program.
#[derive(Debug)]
pub(in crate::commands::prove) struct PortTarget<P> {
    program: PathBuf,
    sync: SyncWhen,
    durability: Durability,
    protocol: PhantomData<P>,
}

impl<P> PortTarget<P> {
    pub(in crate::commands::prove) fn new(program: PathBuf, sync: SyncWhen, durability: Durability) -> Self {
        Self { program, sync, durability, protocol: PhantomData }
    }
}

impl<P: PortProgram> Target for PortTarget<P> {
    type Publisher = P::Publisher;
    type Consumer = P::Consumer;

    fn describe(&self) -> String {
        P::describe(self.sync)
    }

    fn arguments(&self) -> String {
        format!("{} --sync {}", P::TARGET, sync_word(self.sync))
    }

    fn program(&self) -> anyhow::Result<PathBuf> {
        Ok(self.program.clone())
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn is_ordered(&self) -> bool {
        true
    }

    /// None of them defers by milliseconds.
    fn can_defer(&self) -> bool {
        false
    }

    async fn start(&self, folder: &Path, settings: &TargetSettings) -> anyhow::Result<TargetProcess> {
        let port = free_port()?;
        let command = P::command(&self.program, port, self.sync, folder, settings)?;
        let mut process =
            TargetProcess::start(command, settings).with_context(|| self.program.display().to_string())?;
        process.wait_for_port(port, P::prepare).await?;
        Ok(process)
    }

    async fn publisher(&self, process: &TargetProcess) -> io::Result<P::Publisher> {
        P::publisher(&process.address).await
    }

    async fn consumer(&self, process: &TargetProcess, in_flight: u32) -> io::Result<P::Consumer> {
        P::consumer(&process.address, in_flight).await
    }
}

/// Finds a port that nobody listens on. Another process may take it before the target does.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
