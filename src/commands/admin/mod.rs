//! `mqueue create`, `pause`, `unpause`, `empty` and `delete`, on every nsqd that has the stream or
//! group.

pub(crate) mod args;

use self::args::ActionArgs;
use super::common::confirm::is_confirmed;
use super::common::exit::{Exit, Failure};
use super::common::nsqd_result::NsqdResult;
use super::common::queue_question::{question, words};
use super::common::silent_brokers::silent_brokers;
use super::common::stdout;
use mqueue::client::StatsFilter;
use mqueue::cluster::{ClusterState, QueueAction, QueueTarget};
use mqueue::plural::count;

/// Runs an action to its end.
pub(crate) async fn run(action: QueueAction, args: ActionArgs) -> anyhow::Result<Exit> {
    let cluster = args.broker.cluster()?;
    let state = cluster.observe(&StatsFilter::default()).await;
    let silent = silent_brokers(&state)?;
    silent.iter().for_each(|error| tracing::error!("{error}: nothing is done there"));
    let (there, missing): (Vec<_>, Vec<_>) =
        args.targets.iter().partition(|target| !state.places(action, target).is_empty());
    missing.iter().for_each(|target| tracing::error!("no nsqd that answered has {target}"));
    let mut exit = if silent.is_empty() && missing.is_empty() { Exit::Success } else { Exit::Failure };
    if there.is_empty() {
        return Ok(exit);
    }
    if loses_something(action, &state, &there)
        && !args.dry_run
        && !is_confirmed(&question(action, &state, &there), args.yes)?
    {
        return Ok(Exit::Failure);
    }
    for target in there {
        let outcomes = match args.dry_run {
            true => planned(&state, action, target),
            false => match cluster.act(&state, action, target).await {
                Ok(outcomes) => outcomes.into_iter().map(NsqdResult::from).collect(),
                Err(error) => {
                    tracing::error!("nothing is done with {target}: {error}");
                    exit = Exit::Failure;
                    continue;
                }
            },
        };
        if outcomes.iter().any(|outcome| outcome.error.is_some()) {
            exit = Exit::Failure;
        }
        print(action, target, &args, &outcomes)?;
    }
    Ok(exit)
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
