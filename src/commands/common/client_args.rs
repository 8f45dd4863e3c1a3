//! The flag that selects the client library; it exists with the feature `tokio-nsq`.

#[cfg(feature = "tokio-nsq")]
use clap::builder::{PossibleValuesParser, TypedValueParser};
use mqueue::client::Driver;

/// Reads a client's name.
#[cfg(feature = "tokio-nsq")]
fn driver() -> impl TypedValueParser<Value = Driver> {
    let of_name = |name: String| Driver::ALL.iter().copied().find(|driver| driver.name() == name);
    PossibleValuesParser::new(Driver::ALL.iter().map(|driver| driver.name()))
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
    #[arg(long, value_parser = driver(), default_value = "own", env = "MQUEUE_CLIENT", help_heading = "Tuning")]
    pub client: Driver,
}

impl Args {
    /// Returns the client library to use.
    pub(crate) fn driver(self) -> Driver {
        #[cfg(feature = "tokio-nsq")]
        return self.client;
        #[cfg(not(feature = "tokio-nsq"))]
        Driver::Own
    }
}
