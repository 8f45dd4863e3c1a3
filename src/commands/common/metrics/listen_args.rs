//! `--listen`: the same flags in every command that serves its metrics.

use super::status_server::{self, StatusPages, StatusServer};
use crate::commands::common::exit::Failure;
use crate::commands::common::http_guard_args::HttpGuardArgs;
use mqueue::proto::HostPort;

/// The address of the metrics.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Metrics")]
pub(crate) struct ListenArgs {
    /// Address to serve /healthz and /metrics on over HTTP (port 0: any free port, which the log
    /// names) [default: none, nothing is measured]
    #[arg(long, env = "MQUEUE_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<HostPort>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub http_guard: HttpGuardArgs,
}

impl ListenArgs {
    /// Returns a meter, if the metrics are served.
    pub(crate) fn wanted<T>(&self, meter: impl FnOnce() -> T) -> Option<T> {
        self.listen.as_ref().map(|_| meter())
    }

    /// Serves the pages of `meter`, if there is one.
    ///
    /// # Errors
    /// The address is not available.
    pub(crate) async fn serve<T>(
        &self,
        meter: Option<&T>,
        pages: impl FnOnce(&T) -> StatusPages,
    ) -> Result<Option<StatusServer>, Failure> {
        let (Some(address), Some(meter)) = (&self.listen, meter) else { return Ok(None) };
        let router = pages(meter).router();
        status_server::serve("--listen", address, &self.http_guard, "/healthz, /metrics", router).await.map(Some)
    }
}
