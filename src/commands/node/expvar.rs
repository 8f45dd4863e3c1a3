//! A node's counters at `/debug/vars`, in the format of Go's expvar, for expvarmon.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use mqueue::http::{BoundedListener, BrowserGuard};
use mqueue::io_error::describe;

/// The counters of a run.
#[derive(Debug, Default)]
pub(super) struct NodeVars {
    /// True if the node only generates: it waits while another node generates.
    pub(super) only_generates: bool,
    /// The epoch that this node generates in; 0 while it does not generate.
    pub(super) epoch: AtomicU64,
    /// How often this node became the generator.
    pub(super) terms: AtomicU64,
    /// Events written to nsqd.
    pub(super) generated: AtomicU64,
    /// Events that nsqd acknowledged.
    pub(super) published: AtomicU64,
    /// Events handled.
    pub(super) handled: AtomicU64,
    /// Invalid events, which became dead letters.
    pub(super) invalid: AtomicU64,
    /// True while the token's nsqd is connected.
    pub(super) has_token_connection: AtomicBool,
    /// True while a node that consumes from Redis is connected for that.
    pub(super) has_consumer_connection: AtomicBool,
    /// Entries of a list in Redis that are being handled.
    pub(super) in_flight: AtomicU64,
    /// The highest epoch of a received event.
    pub(super) seen_epoch: AtomicU64,
}

impl NodeVars {
    fn json(&self) -> Value {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let epoch = number(&self.epoch);
        let (anonymous, all) = (memory("RssAnon:"), memory("VmRSS:"));
        json!({
            "cmdline": std::env::args().collect::<Vec<_>>(),
            "memstats": {
                "Alloc": anonymous, "HeapAlloc": anonymous, "HeapInuse": anonymous, "HeapSys": anonymous, "Sys": all,
                // there is no garbage collector
                "NumGC": 0, "PauseTotalNs": 0, "PauseNs": [0],
            },
            "mqueue": {
                "mode": match (epoch, self.only_generates) {
                    (1.., _) => "generator",
                    (0, true) => "waiting",
                    (0, false) => "consumer",
                },
                "epoch": epoch,
                "terms": number(&self.terms),
                "generated": number(&self.generated),
                "published": number(&self.published),
                "handled": number(&self.handled),
                "invalid": number(&self.invalid),
            },
        })
    }
}

/// Returns a value of `/proc/self/status` in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|l| l.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Tells them on this port, if it is free: a node works also where nobody looks.
pub(super) async fn serve(vars: Arc<NodeVars>, port: u16, guard: BrowserGuard) {
    let listening = match BoundedListener::bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(), guard).await {
        Ok(door) => door.address().map(|address| (door, address)),
        Err(e) => Err(e),
    };
    match listening {
        Ok((door, address)) => {
            tracing::info!("listening on http://{address} (/debug/vars)");
            tokio::spawn(door.serve(Router::new().route("/debug/vars", get(respond)).with_state(vars)));
        }
        Err(e) => {
            tracing::warn!(
                "/debug/vars is not served, cannot listen on port {port}: {}: choose another with MPORT",
                describe(&e)
            )
        }
    }
}

async fn respond(State(vars): State<Arc<NodeVars>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], vars.json().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_that_of_expvar() {
        assert_eq!(NodeVars { only_generates: true, ..NodeVars::default() }.json()["mqueue"]["mode"], "waiting");
        let vars = NodeVars::default();
        vars.generated.fetch_add(3, Ordering::Relaxed);
        let json = vars.json();
        assert!(json["cmdline"][0].is_string());
        assert!(json["memstats"]["Alloc"].as_u64().unwrap() > 10_000);
        assert!(json["memstats"]["PauseNs"].is_array());
        assert_eq!((&json["mqueue"]["generated"], &json["mqueue"]["mode"]), (&3.into(), &"consumer".into()));
    }
}
