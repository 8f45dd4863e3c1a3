//! `mqueue create`, `pause`, `unpause`, `empty` and `delete`, on every nsqd that has the stream or
//! group.

pub(crate) mod args;

use std::time::Duration;

use self::args::ActionArgs;
use super::common::confirm::is_confirmed;
use super::common::exit::{Exit, Failure};
use super::common::nsqd_result::NsqdResult;
use super::common::queue_question::{question, words};
use super::common::silent_brokers::silent_brokers;
use super::common::stdout;
use mqueue::client::StatsFilter;
use mqueue::cluster::{ClusterApis, ClusterState, HeldBacklogs, QueueAction, QueueTarget};
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;

/// Runs an action to its end.
pub(crate) async fn run(action: QueueAction, args: ActionArgs) -> anyhow::Result<Exit> {
    let cluster = args.broker.cluster()?;
    let state = cluster.observe(&StatsFilter::default()).await;
    let silent = silent_brokers(&state, "nothing is done there")?;
    silent.iter().for_each(|line| tracing::error!("{line}"));
    let (there, missing): (Vec<_>, Vec<_>) =
        args.targets.iter().partition(|target| !state.places(action, target).is_empty());
    missing.iter().for_each(|target| tracing::error!("no nsqd that answered has {target}"));
    let exit = if silent.is_empty() && missing.is_empty() { Exit::Success } else { Exit::Failure };
    if there.is_empty() {
        return Ok(exit);
    }
    if loses_something(action, &state, &there)
        && !args.dry_run
        && !is_confirmed(&question(action, &state, &there), args.yes)?
    {
        return Ok(Exit::Failure);
    }
    let are_done = match action {
        QueueAction::Create if !args.dry_run => create(&cluster, &state, &args, &there).await?,
        _ => act(&cluster, &state, action, &args, &there).await?,
    };
    Ok(if are_done { exit } else { Exit::Failure })
}

/// Does the action with each target, and prints the outcomes. Returns true if all went well.
async fn act(
    cluster: &ClusterApis,
    state: &ClusterState,
    action: QueueAction,
    args: &ActionArgs,
    targets: &[&QueueTarget],
) -> Result<bool, Failure> {
    let mut are_done = true;
    for target in targets {
        let outcomes = match args.dry_run {
            true => planned(state, action, target),
            false => match cluster.act(state, action, target).await {
                Ok(outcomes) => outcomes.into_iter().map(NsqdResult::from).collect(),
                Err(error) => {
                    tracing::error!("nothing is done with {target}: {error}");
                    are_done = false;
                    continue;
                }
            },
        };
        are_done &= outcomes.iter().all(|outcome| outcome.error.is_none());
        print(action, target, args, &outcomes)?;
    }
    Ok(are_done)
}

/// Creates the targets. Where a stream gets several first groups, each gets the messages that
/// waited for one.
async fn create(
    cluster: &ClusterApis,
    state: &ClusterState,
    args: &ActionArgs,
    targets: &[&QueueTarget],
) -> anyhow::Result<bool> {
    let held = match HeldBacklogs::hold(state, targets).await {
        Ok(held) => held,
        Err(error) => {
            tracing::error!("nothing is created: {error}");
            return Ok(false);
        }
    };
    // Ctrl-C must not leave a stream paused: the rest takes seconds at most
    let _signals = if held.is_empty() { None } else { Some(Shutdown::on_signals(Duration::MAX)?) };
    let created = act(cluster, state, QueueAction::Create, args, targets).await;
    let released = held.release().await;
    for (stream, error) in released.as_ref().err().into_iter().flatten() {
        tracing::error!("{stream} stays paused: {error}: unpause it with `mqueue unpause`");
    }
    Ok(created? && released.is_ok())
}

/// Returns true if the action asks first: it deletes, or discards messages.
fn loses_something(action: QueueAction, state: &ClusterState, targets: &[&QueueTarget]) -> bool {
    let holds = |target: &&QueueTarget| state.places(action, target).iter().any(|(_, messages)| *messages > 0);
    match action {
        QueueAction::Delete => true,
        QueueAction::Empty => targets.iter().any(holds),
        QueueAction::Create | QueueAction::Pause | QueueAction::Unpause => false,
    }
}

fn planned(state: &ClusterState, action: QueueAction, target: &QueueTarget) -> Vec<NsqdResult> {
    let places = state.places(action, target).into_iter();
    places.map(|(nsqd, messages)| NsqdResult { nsqd: nsqd.to_string(), messages, error: None }).collect()
}

fn print(action: QueueAction, target: &QueueTarget, args: &ActionArgs, outcomes: &[NsqdResult]) -> Result<(), Failure> {
    let (verb, done) = words(action);
    if args.json {
        let (target, dry_run) = (target.to_string(), args.dry_run);
        let json = serde_json::json!({"action": verb, "target": target, "dry_run": dry_run, "nsqds": outcomes});
        return stdout::print(&format!("{json}\n"));
    }
    let mut text = String::new();
    for NsqdResult { nsqd, messages, error } in outcomes {
        let lost = match action.loses_messages() {
            true => format!(", with {}", count(*messages, "message")),
            false => String::new(),
        };
        match error {
            Some(error) => tracing::error!("cannot {verb} {target}: {error}"),
            None if args.dry_run => text += &format!("would {verb} {target} on {nsqd}{lost}\n"),
            None => text += &format!("{done} {target} on {nsqd}{lost}\n"),
        }
    }
    stdout::print(&text)
}
