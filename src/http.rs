//! What every HTTP client here starts from.

use reqwest::ClientBuilder;

/// A client's builder, with a cryptography provider in place: without one for the process reqwest panics, also for plain http. One
/// that is there already is as good.
pub(crate) fn client() -> ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    ClientBuilder::new().user_agent(concat!("mqueue/", env!("CARGO_PKG_VERSION")))
}
