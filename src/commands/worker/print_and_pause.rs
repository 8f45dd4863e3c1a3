//! The handler of a worker without `--handler`: prints each job, and pauses.

use std::io::{self, Write};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::commands::common::stdout;
use mqueue::handler::{Handler, Verdict};
use mqueue::io_error::describe;
use mqueue::proto::Message;

/// Prints one line per job to stdout: `n=1 p=1 counter=7`.
#[derive(Debug)]
pub(super) struct PrintAndPause {
    n: String,
    pause: Duration,
    /// Cancelled when stdout is closed (a broken pipe).
    stop: CancellationToken,
}

impl PrintAndPause {
    pub(super) fn new(n: String, pause: Duration, stop: CancellationToken) -> Self {
        Self { n, pause, stop }
    }
}

impl Handler for PrintAndPause {
    async fn handle(&self, message: Message) -> Verdict {
        let body = String::from_utf8_lossy(&message.body).escape_default().to_string();
        let line = format!("n={} p={} counter={body}\n", self.n, self.pause.as_secs_f64());
        // a slow reader of stdout blocks this job only
        let written = spawn_blocking(move || {
            let mut out = io::stdout().lock();
            out.write_all(line.as_bytes()).and_then(|()| out.flush())
        });
        match written.await {
            Ok(Ok(())) => {
                tokio::time::sleep(self.pause).await;
                Verdict::Done(None)
            }
            Ok(Err(error)) if stdout::is_closed_pipe(&error) => {
                self.stop.cancel();
                Verdict::Release
            }
            Ok(Err(error)) => Verdict::retry(format!("cannot write to standard output: {}", describe(&error))),
            Err(_) => Verdict::Release,
        }
    }
}
