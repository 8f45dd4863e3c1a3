//! The findings of `mqueue doctor`, and the state of wakeup.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::commands::common::{broker_args, child_process, socket_args};
use mqueue::http::client::{body, cause, plain_client};
use mqueue::io_error::without_numbers;
use mqueue::proto::HostPort;

/// The longest time that doctor may take.
const DOCTOR_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest report of doctor, in bytes.
const MAX_REPORT: u64 = 4 << 20;
/// The time for wakeup to answer.
const WAKEUP_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest state of wakeup, in bytes.
const MAX_STATE: usize = 4 << 20;

/// Runs `mqueue doctor` on the same brokers: its memory is not this process's. An error is a field
/// of the answer.
pub(super) async fn doctor(brokers: &broker_args::Args, sockets: &socket_args::Args) -> Value {
    match timeout(DOCTOR_TIMEOUT, run_doctor(brokers, sockets)).await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => json!({ "error": without_numbers(&format!("{error:#}")) }),
        Err(_) => json!({ "error": "mqueue doctor took longer than a minute" }),
    }
}

async fn run_doctor(brokers: &broker_args::Args, sockets: &socket_args::Args) -> anyhow::Result<Value> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = child_process::command(Command::new(program), &["--log=off", "doctor", "--json", "--watch=1s"]);
    command.stderr(Stdio::null()).args(brokers.flags());
    for (flag, paths) in [("--socket-dir", &sockets.socket_dir), ("--socket", &sockets.socket)] {
        for path in paths {
            command.arg(flag).arg(path);
        }
    }
    let mut child = command.spawn().context("cannot start mqueue doctor")?;
    let mut report = Vec::new();
    let stdout = child.stdout.take().context("it has a pipe")?;
    stdout.take(MAX_REPORT + 1).read_to_end(&mut report).await?;
    if report.len() as u64 > MAX_REPORT {
        bail!("the report of mqueue doctor is longer than 4 MiB");
    }
    let ended = child.wait().await?;
    serde_json::from_slice(&report).with_context(|| format!("mqueue doctor has no report ({ended})"))
}

/// Asks wakeup for its state. An error is a field of the answer.
pub(super) async fn wakeup(address: &HostPort) -> Value {
    match ask_wakeup(address).await {
        Ok(state) => state,
        Err(why) => json!({ "error": format!("cannot ask wakeup at {address}: {why}") }),
    }
}

async fn ask_wakeup(address: &HostPort) -> Result<Value, String> {
    let client = plain_client().no_proxy().timeout(WAKEUP_TIMEOUT).build().map_err(|e| cause(&e))?;
    let response = client.get(format!("http://{address}/state")).send().await.map_err(|e| cause(&e))?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status().as_u16()));
    }
    let state = body(response, MAX_STATE).await.map_err(|error| error.to_string())?;
    let state: Value = serde_json::from_slice(&state).map_err(|_| "the answer is not wakeup's state".to_owned())?;
    if state.is_object() { Ok(state) } else { Err("the answer is not wakeup's state".to_owned()) }
}
