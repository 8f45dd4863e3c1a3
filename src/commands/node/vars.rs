//! What a node counts, and tells at `/debug/vars` in the format of Go's expvar, for expvarmon.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use mqueue::http::BoundedListener;

/// The figures of a run.
#[derive(Debug, Default)]
pub(super) struct Vars {
    /// True if it only generates: while another node does, it waits.
    pub(super) only_generates: bool,
    /// The epoch that this node generates in; 0 while it does not.
    pub(super) epoch: AtomicU64,
    /// How often it became the generator.
    pub(super) terms: AtomicU64,
    /// Events written to nsqd.
    pub(super) generated: AtomicU64,
    /// Those that nsqd has taken.
    pub(super) published: AtomicU64,
    /// Events handled.
    pub(super) handled: AtomicU64,
    /// Events that were invalid, and went to the dead letters.
    pub(super) invalid: AtomicU64,
    /// The highest epoch of an event that was handled.
    pub(super) seen_epoch: AtomicU64,
}

impl Vars {
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

/// A line of what the system knows about this process' memory, in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|l| l.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Tells them on this port, if it is free: a node works also where nobody looks.
pub(super) async fn serve(vars: Arc<Vars>, port: u16) {
    let listening = match BoundedListener::bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).await {
        Ok(door) => door.address().map(|address| (door, address)),
        Err(e) => Err(e),
    };
    match listening {
        Ok((door, address)) => {
            tracing::info!("listening on http://{address} (/debug/vars)");
            tokio::spawn(door.serve(Router::new().route("/debug/vars", get(tell)).with_state(vars)));
        }
        Err(e) => {
            tracing::warn!("nobody can look at this node, port {port} cannot be had: {e}: choose another with MPORT")
        }
    }
}

async fn tell(State(vars): State<Arc<Vars>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], vars.json().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_expvars() {
        assert_eq!(Vars { only_generates: true, ..Vars::default() }.json()["mqueue"]["mode"], "waiting");
        let vars = Vars::default();
        vars.generated.fetch_add(3, Ordering::Relaxed);
        let json = vars.json();
        assert!(json["cmdline"][0].is_string());
        assert!(json["memstats"]["Alloc"].as_u64().unwrap() > 10_000);
        assert!(json["memstats"]["PauseNs"].is_array());
        assert_eq!((&json["mqueue"]["generated"], &json["mqueue"]["mode"]), (&3.into(), &"consumer".into()));
    }
}
