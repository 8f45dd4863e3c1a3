//! Names for completion: from the broker that a command line, the environment or a context names,
//! until a deadline.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use clap::{Arg, CommandFactory, Parser};
use mqueue::client::StatsFilter;
use mqueue::cluster::ClusterState;
use mqueue::proto::{ChannelName, TopicName};

use super::choices::KnownNames;
use crate::commands::common::broker_args;
use crate::commands::common::context::{self, ContextFile, ContextName};

/// The flags of every command that connects to a broker.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct BrokerLine {
    #[arg(long, env = "MQUEUE_CONTEXT")]
    context: Option<ContextName>,

    #[command(flatten)]
    broker: broker_args::Args,
}

/// The brokers to ask, and the time until they have to answer.
#[derive(Debug)]
pub(super) struct QueueNames {
    /// The typed flags that name brokers.
    flags: Vec<String>,
    until: Instant,
}

impl QueueNames {
    /// Takes the flags that name brokers from those of a command line.
    pub(super) fn of(given: &[(&Arg, String)], until: Instant) -> Self {
        let line = BrokerLine::command();
        let known = |arg: &Arg| line.get_arguments().find(|known| known.get_long().is_some_and(|name| is(arg, name)));
        let flag = |(arg, value): &(&Arg, String)| {
            let known = known(arg)?;
            let takes_value = known.get_action().takes_values();
            let name = known.get_long()?;
            Some(if takes_value { format!("--{name}={value}") } else { format!("--{name}") })
        };
        Self { flags: given.iter().filter_map(flag).collect(), until }
    }

    /// Asks in a thread, which is left behind at the deadline. A file or a name server that blocks
    /// delays nothing.
    fn until_deadline<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&[String]) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = mpsc::channel();
        let flags = self.flags.clone();
        thread::Builder::new().spawn(move || sender.send(ask(&flags))).ok()?;
        receiver.recv_timeout(self.until.saturating_duration_since(Instant::now())).ok().flatten()
    }

    fn observe(&self, filter: StatsFilter) -> Option<ClusterState> {
        self.until_deadline(move |flags| {
            let mut line = BrokerLine::try_parse_from(flags).ok()?;
            context::apply(&mut line.broker, line.context.as_ref(), true).ok()?;
            line.broker.load_security(None).ok()?;
            let cluster = line.broker.cluster().ok()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            let state = runtime.block_on(cluster.observe(&filter));
            runtime.shutdown_background();
            Some(state)
        })
    }
}

fn is(arg: &Arg, name: &str) -> bool {
    arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&name))
}

impl KnownNames for QueueNames {
    fn streams(&self) -> Vec<TopicName> {
        let state = self.observe(StatsFilter::default());
        state.map(|state| state.streams().into_keys().collect()).unwrap_or_default()
    }

    fn groups(&self, stream: &TopicName) -> Vec<ChannelName> {
        let state = self.observe(StatsFilter::default().with_topic(stream));
        let stream = state.and_then(|state| state.streams().remove(stream));
        stream.map(|stream| stream.groups.into_keys().collect()).unwrap_or_default()
    }

    fn contexts(&self) -> Vec<ContextName> {
        let file = self.until_deadline(|_| ContextFile::load().ok());
        file.map(|file| file.contexts.into_keys().collect()).unwrap_or_default()
    }
}
