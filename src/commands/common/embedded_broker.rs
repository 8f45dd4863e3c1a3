//! A broker in this process for the duration of a command, with its log in a temporary folder.

use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use mqueue::broker::log::{DiskLog, LogOptions};
use mqueue::broker::server::{BrokerServer, ListenAddress};
use mqueue::broker::{Broker, BrokerConfig};
use mqueue::io_error::describe;

/// A running broker.
#[derive(Debug)]
pub(crate) struct EmbeddedBroker {
    /// Address of NSQ's TCP protocol.
    pub(crate) tcp: String,
    /// Address of the HTTP API.
    pub(crate) http: String,
    folder: TempFolder,
    closing: CancellationToken,
    serving: JoinHandle<()>,
}

impl EmbeddedBroker {
    /// Starts a broker on ports that the system chooses, in a folder whose name begins with `name`.
    pub(crate) async fn start(name: &str) -> anyhow::Result<Self> {
        let folder = TempFolder::new(name)?;
        let local: [ListenAddress; 1] = ["127.0.0.1:0".parse().expect("a valid address")];
        let (log, recovered, _) = DiskLog::open(&LogOptions::new(folder.0.join("log")))?;
        let broker = Broker::on_disk(BrokerConfig::default(), log, recovered, None);
        let server = BrokerServer::bind(broker, &local, &local, Some("127.0.0.1".to_owned())).await?;
        let (tcp, http) = (server.tcp[0].to_string(), server.http[0].to_string());
        let closing = CancellationToken::new();
        let serving = tokio::spawn(server.run(closing.clone()));
        Ok(Self { tcp, http, folder, closing, serving })
    }

    /// The folder for files of the run, such as sockets.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Stops the broker and removes its folder.
    pub(crate) async fn end(self) {
        self.closing.cancel();
        let _ = self.serving.await;
    }
}

/// A folder that is removed when its owner is dropped.
#[derive(Debug)]
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    /// Creates a folder below the one for temporary files.
    pub(crate) fn new(name: &str) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("{name}-{:08x}", fastrand::u32(..)));
        let failed = |e| {
            let (path, why) = (path.display(), describe(&e));
            Failure::new(Exit::Failure, format!("cannot create {path}: {why}: set TMPDIR to another folder"))
        };
        std::fs::create_dir(&path).map_err(failed)?;
        Ok(Self(path))
    }

    /// Path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
