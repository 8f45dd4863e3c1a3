//! Actions on the selected stream or group: prepared with a question, and done after a yes. Each
//! runs in a task of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::Command;

use super::args::Args;
use super::keys::AskedAction;
use super::state::TopStatus;
use crate::commands::common::child_process;
use crate::commands::common::queue_question::{question, words};
use mqueue::client::StatsFilter;
use mqueue::cluster::{ClusterApis, ClusterState, QueueAction, QueueTarget};
use mqueue::io_error::describe;
use mqueue::plural::count;
use mqueue::proto::{TopicName, excerpt};
use mqueue::wake::poke::{poke, remedy};
use mqueue::worker::DeadLetter;

/// nsqds that a question lists by their addresses.
const MAX_LISTED: usize = 3;

/// An action that waits for a yes.
#[derive(Debug)]
pub(super) struct ActionPlan {
    pub(super) question: String,
    work: PlannedWork,
}

/// The work of a plan.
#[derive(Debug)]
enum PlannedWork {
    /// An action on the nsqds that had the target when the question was asked.
    Queue { action: QueueAction, target: QueueTarget, state: ClusterState },
    /// Pokes of these sockets.
    Wake(Vec<PathBuf>),
    /// Publishing the stream's dead letters again.
    Redrive(TopicName),
}

/// Prepares an action and its question.
///
/// # Errors
/// Fails with the reason why there is nothing to do.
pub(super) async fn prepare(
    cluster: ClusterApis,
    args: Arc<Args>,
    action: AskedAction,
    target: QueueTarget,
) -> Result<ActionPlan, String> {
    match action {
        AskedAction::Queue(action) => prepare_queue(&cluster, action, target).await,
        AskedAction::Wake => prepare_wake(&cluster, &args, target).await,
        AskedAction::Redrive => prepare_redrive(&cluster, target.stream).await,
    }
}

async fn observed(cluster: &ClusterApis, stream: &TopicName) -> ClusterState {
    cluster.observe(&StatsFilter::default().with_topic(stream)).await
}

async fn prepare_queue(cluster: &ClusterApis, action: QueueAction, target: QueueTarget) -> Result<ActionPlan, String> {
    let state = observed(cluster, &target.stream).await;
    let places = described_places(&state, action, &target)?;
    let question = format!("{}{places}? [y/N]", question(action, &state, &[&target]));
    Ok(ActionPlan { question, work: PlannedWork::Queue { action, target, state } })
}

async fn prepare_wake(cluster: &ClusterApis, args: &Args, target: QueueTarget) -> Result<ActionPlan, String> {
    let group = target.group.as_ref().ok_or("a stream has no consumers")?;
    let sockets = args.sockets.of_group(group.as_str());
    if sockets.is_empty() {
        return Err(format!("no socket of {group} on this machine: name its folder with --socket-dir"));
    }
    let state = observed(cluster, &target.stream).await;
    // all that have the group
    let held: u64 = state.places(QueueAction::Pause, &target).iter().map(|(_, messages)| messages).sum();
    let paths: Vec<String> = sockets.iter().map(|path| excerpt(path.as_os_str().as_encoded_bytes())).collect();
    let question = format!("wake {target} with {}: poke {}? [y/N]", count(held, "message"), paths.join(", "));
    Ok(ActionPlan { question, work: PlannedWork::Wake(sockets) })
}

async fn prepare_redrive(cluster: &ClusterApis, stream: TopicName) -> Result<ActionPlan, String> {
    let dead = DeadLetter::stream_of(&stream).map_err(|error| error.to_string())?;
    let target = QueueTarget::new(dead.clone(), None);
    let state = observed(cluster, &dead).await;
    let places = described_places(&state, QueueAction::Pause, &target)?;
    // every group has a copy of each
    let letters = state.streams().get(&dead).map_or(0, |stream| {
        stream.depth + stream.groups.values().map(mqueue::cluster::ClusterGroup::messages).max().unwrap_or(0)
    });
    let question = format!("redrive {} of {stream}, from {dead}{places}? [y/N]", count(letters, "dead letter"));
    Ok(ActionPlan { question, work: PlannedWork::Redrive(stream) })
}

/// Names the nsqds that have a target, and counts those that do not answer.
fn described_places(state: &ClusterState, action: QueueAction, target: &QueueTarget) -> Result<String, String> {
    let places = state.places(action, target);
    if places.is_empty() {
        return Err(state.errors().next().map_or_else(|| format!("no nsqd has {target}"), ToString::to_string));
    }
    let mut text = String::new();
    if places.len() <= MAX_LISTED {
        let names: Vec<String> = places.iter().map(|(nsqd, _)| nsqd.to_string()).collect();
        text += &format!(" ({})", names.join(", "));
    }
    match state.nsqds.iter().filter(|nsqd| nsqd.answer.is_err()).count() {
        0 => {}
        1 => text += ", and not on 1 nsqd that does not answer",
        silent => text += &format!(", and not on {silent} nsqds that do not answer"),
    }
    Ok(text)
}

/// Does a planned action; returns its result.
pub(super) async fn perform(cluster: ClusterApis, args: Arc<Args>, plan: ActionPlan) -> TopStatus {
    let done = match plan.work {
        PlannedWork::Queue { action, target, state } => act(&cluster, action, &target, &state).await,
        PlannedWork::Wake(sockets) => wake(&sockets),
        PlannedWork::Redrive(stream) => redrive(&args, &stream).await,
    };
    match done {
        Ok(text) => TopStatus { text, is_error: false },
        Err(text) => TopStatus { text, is_error: true },
    }
}

async fn act(
    cluster: &ClusterApis,
    action: QueueAction,
    target: &QueueTarget,
    state: &ClusterState,
) -> Result<String, String> {
    let (verb, done) = words(action);
    let outcomes =
        cluster.act(state, action, target).await.map_err(|error| format!("cannot {verb} {target}: {error}"))?;
    let all = outcomes.len();
    let messages: u64 = outcomes.iter().filter(|outcome| outcome.result.is_ok()).map(|outcome| outcome.messages).sum();
    let errors: Vec<_> = outcomes.into_iter().filter_map(|outcome| outcome.result.err()).collect();
    if let Some(error) = errors.first() {
        return Err(format!("{done} {target} on {} of {}: {error}", all - errors.len(), count(all as u64, "nsqd")));
    }
    let lost = if action.loses_messages() { format!(", with {}", count(messages, "message")) } else { String::new() };
    Ok(format!("{done} {target} on {}{lost}", count(all as u64, "nsqd")))
}

fn wake(sockets: &[PathBuf]) -> Result<String, String> {
    for path in sockets {
        let shown = || excerpt(path.as_os_str().as_encoded_bytes());
        poke(path).map_err(|error| format!("cannot poke {}: {}", shown(), remedy(None, &error)))?;
    }
    Ok(format!("poked {}", count(sockets.len() as u64, "socket")))
}

/// Runs `mqueue errors --redrive` for the same brokers; returns its last line.
async fn redrive(args: &Args, stream: &TopicName) -> Result<String, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("cannot start mqueue errors: {}", describe(&error)))?;
    let broker = &args.broker;
    let tcp = broker.nsqd_tcp_address.iter().map(|address| format!("--nsqd-tcp-address={address}"));
    let http = broker.nsqd_http_address.iter().map(|address| format!("--nsqd-http-address={address}"));
    let lookupd = broker.lookupd_http_address.iter().map(|address| format!("--lookupd-http-address={address}"));
    let brokers: Vec<String> = tcp.chain(http).chain(lookupd).chain(broker.security.flags()).collect();
    let own = ["--log", "error", "errors", "--redrive", "--yes", "--stream", stream.as_str()];
    let words: Vec<&str> = own.into_iter().chain(brokers.iter().map(String::as_str)).collect();
    let mut command = child_process::command(Command::new(program), &words);
    // the flags say all: a current context must not add to them
    command.env("XDG_CONFIG_HOME", "/nonexistent").stderr(Stdio::piped());
    let output = command.output().await.map_err(|error| format!("cannot start mqueue errors: {}", describe(&error)))?;
    let last = output.stderr.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).map(excerpt);
    let last = last.unwrap_or_else(|| "mqueue errors said nothing".to_owned());
    if output.status.success() { Ok(format!("{stream}: {last}")) } else { Err(last) }
}
