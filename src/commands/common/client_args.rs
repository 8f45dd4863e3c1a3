//! The client for nsqd: a flag that exists with the feature `tokio-nsq`.

#[cfg(feature = "tokio-nsq")]
use clap::builder::{PossibleValuesParser, TypedValueParser};
use mqueue::client::ClientBackend;

/// Parses a client's name.
#[cfg(feature = "tokio-nsq")]
fn backend() -> impl TypedValueParser<Value = ClientBackend> {
    let of_name = |name: String| ClientBackend::ALL.iter().copied().find(|backend| backend.name() == name);
    PossibleValuesParser::new(ClientBackend::ALL.iter().map(|backend| backend.name()))
        .map(move |name| of_name(name).expect("it is one of them"))
}

/// The client for nsqd.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Client for nsqd: own, or tokio-nsq (the crate, 0.14), for comparison
    ///
    /// Limits of tokio-nsq: it does not distinguish a refused message from a lost connection, so
    /// the message delays others until it times out. A lost connection is noticed only at the
    /// reconnect, or after 10 s. A consumer cannot announce that it leaves (CLS): messages that
    /// nsqd sends in the last moment are delivered again after their message timeout, and last
    /// answers may be lost, so that messages arrive twice. RDY stays at max-in-flight: nsqd holds a
    /// lone message for up to 250 ms, there are no pauses when messages fail, and a consumer takes
    /// more than --count and returns the rest. nsqd's --msg-timeout must be above 20 s, and
    /// --msg-timeout of this command has no effect. The size of nsqd's frames is not limited. Dead
    /// letters and forward: always use mqueue's own client.
    #[cfg(feature = "tokio-nsq")]
    #[arg(long, value_parser = backend(), default_value = "own", env = "MQUEUE_CLIENT", help_heading = "Tuning")]
    pub client: ClientBackend,
}

impl Args {
    /// Returns the client.
    pub(crate) fn backend(self) -> ClientBackend {
        #[cfg(feature = "tokio-nsq")]
        return self.client;
        #[cfg(not(feature = "tokio-nsq"))]
        ClientBackend::Own
    }
}
