//! A gate before the listeners: closed, they accept nothing, and connections wait in the kernel.
//!
//! A broker that leaves closes its gate, and looks once more: a connection that was accepted before
//! is served, and one that comes later waits on the socket for the next process.

use std::sync::Arc;

use tokio::sync::watch;

use super::socket::{BrokerListener, ClientSocket};

/// The gate of all listeners of a server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AcceptGate(Arc<GateState>);

#[derive(Debug, Default)]
struct GateState {
    closed: watch::Sender<bool>,
    /// Listeners that may accept a connection now.
    accepting: watch::Sender<usize>,
    /// Accepted connections that have not ended.
    connections: watch::Sender<usize>,
}

impl AcceptGate {
    /// The number of connections that were accepted and have not ended.
    pub fn connections(&self) -> watch::Receiver<usize> {
        self.0.connections.subscribe()
    }

    /// Closes the gate; afterwards nothing is accepted, and all that was is
    /// [counted](Self::connections).
    pub async fn close(&self) {
        self.0.closed.send_replace(true);
        // the sender is alive as long as the gate
        let _ = self.0.accepting.subscribe().wait_for(|listeners| *listeners == 0).await;
    }

    /// Opens the gate again.
    pub fn open(&self) {
        self.0.closed.send_replace(false);
    }
}

/// A listener behind its gate.
#[derive(Debug)]
pub struct GatedListener {
    pub(super) listener: BrokerListener,
    pub(super) gate: AcceptGate,
}

impl GatedListener {
    /// Accepts the next connection while the gate is open; returns it with the peer's address.
    /// Cancel-safe.
    pub(super) async fn accept(&self) -> (ClientSocket, String, CountedConnection) {
        let mut closed = self.gate.0.closed.subscribe();
        loop {
            let _ = closed.wait_for(|closed| !closed).await;
            let accepting = Counted::new(&self.gate, |gate| &gate.accepting);
            let (socket, peer) = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => continue,
                accepted = self.listener.accept() => accepted,
            };
            // counted before the listener is not: there is no moment between
            let connection = CountedConnection(Counted::new(&self.gate, |gate| &gate.connections));
            drop(accepting);
            return (socket, peer, connection);
        }
    }
}

/// Counts a connection until it is dropped.
#[derive(Debug)]
pub(super) struct CountedConnection(#[allow(dead_code, reason = "its drop counts")] Counted);

/// One of a count.
#[derive(Debug)]
struct Counted {
    gate: Arc<GateState>,
    of: fn(&GateState) -> &watch::Sender<usize>,
}

impl Counted {
    fn new(gate: &AcceptGate, of: fn(&GateState) -> &watch::Sender<usize>) -> Self {
        of(&gate.0).send_modify(|count| *count += 1);
        Self { gate: gate.0.clone(), of }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.of)(&self.gate).send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    #[tokio::test]
    async fn a_closed_gate_leaves_connections_on_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let gate = AcceptGate::default();
        let listener = BrokerListener::Unix(UnixListener::bind(&path).unwrap());
        let listener = GatedListener { listener, gate: gate.clone() };
        let accepting = tokio::spawn(async move { (listener.accept().await, listener.accept().await) });
        let _client = UnixStream::connect(&path).await.unwrap();
        let mut connections = gate.connections();
        connections.wait_for(|count| *count == 1).await.unwrap();
        gate.close().await;
        let _late = UnixStream::connect(&path).await.unwrap();
        tokio::time::timeout(Duration::from_millis(50), connections.wait_for(|count| *count == 2)).await.unwrap_err();
        gate.open();
        connections.wait_for(|count| *count == 2).await.unwrap();
        drop(accepting.await.unwrap());
        assert_eq!(*connections.borrow(), 0);
    }
}
