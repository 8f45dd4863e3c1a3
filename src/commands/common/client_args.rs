//! Who speaks with nsqd: a flag that is there with the feature `tokio-nsq`.

#[cfg(feature = "tokio-nsq")]
use clap::builder::{PossibleValuesParser, TypedValueParser};
use mqueue::client::ClientBackend;

/// Reads a client's name.
#[cfg(feature = "tokio-nsq")]
fn backend() -> impl TypedValueParser<Value = ClientBackend> {
    let of_name = |name: String| ClientBackend::ALL.iter().copied().find(|backend| backend.name() == name);
    PossibleValuesParser::new(ClientBackend::ALL.iter().map(|backend| backend.name()))
        .map(move |name| of_name(name).expect("it is one of them"))
}

/// The client to speak with nsqd by.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Who speaks with nsqd: own, or tokio-nsq (the crate, 0.14), for comparison
    ///
    /// What tokio-nsq cannot promise: a refused message is not told apart from a lost connection, and holds others up until it times out;
    /// a lost connection is seen only when it is made anew, or after 10 s; a consumer cannot say that it leaves (CLS), so what nsqd sends in
    /// the last moment comes again after its message timeout, and last answers may be lost, so that messages come twice; RDY stays at
    /// max-in-flight, so nsqd holds a lone message back for up to 250 ms, there are no pauses when messages fail, and a consumer takes more
    /// than --count and gives it back; nsqd's --msg-timeout must be above 20 s, and ours is not heeded; the size of what nsqd sends is
    /// not bounded. Dead letters and forward: always go by our own client.
    #[cfg(feature = "tokio-nsq")]
    #[arg(long, value_parser = backend(), default_value = "own", env = "MQUEUE_CLIENT", help_heading = "Tuning")]
    pub client: ClientBackend,
}

impl Args {
    /// The client.
    pub(crate) fn backend(self) -> ClientBackend {
        #[cfg(feature = "tokio-nsq")]
        return self.client;
        #[cfg(not(feature = "tokio-nsq"))]
        ClientBackend::Own
    }
}
