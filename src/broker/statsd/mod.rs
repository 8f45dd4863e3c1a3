//! Statistics for a statsd daemon, over UDP: nsqd's metrics under nsqd's names (`nsqd/statsd.go`).
//!
//! ```text
//!  each interval: state ─▶ StatsdReport (names, differences) ─▶ Packets (whole lines) ─▶ UDP
//! ```

mod packets;
mod report;

use std::io;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use self::report::StatsdReport;
use super::Broker;
use super::http::Identity;
use super::memory::resident_bytes;
use super::state::StatsSelection;
use crate::io_error::describe;
use crate::net::connect_udp;
use crate::proto::HostPort;

/// Time limit for resolving the daemon's name, and for sending a packet.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Packets that are sent together, so that they fit into the receiver's buffer, and the pause after
/// them.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(20);

/// Configuration of the export to statsd, with nsqd's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsdSettings {
    /// Address of the daemon; `None` for no export.
    pub address: Option<HostPort>,
    /// Prefix of all names; `%s` stands for the broadcast address and the HTTP port.
    pub prefix: String,
    /// Interval of exports.
    pub interval: Duration,
    /// True to send the process's memory.
    pub mem_stats: bool,
    /// True to leave out ephemeral topics and channels.
    pub exclude_ephemeral: bool,
    /// Maximum size of a packet in bytes.
    pub udp_packet_size: usize,
}

impl Default for StatsdSettings {
    fn default() -> Self {
        Self {
            address: None,
            prefix: "nsq.%s".to_owned(),
            interval: Duration::from_secs(60),
            mem_stats: true,
            exclude_ephemeral: false,
            udp_packet_size: 508,
        }
    }
}

impl StatsdSettings {
    /// The prefix of names: with the host key of the broker, and a dot at its end.
    pub(super) fn prefix_of(&self, identity: &Identity) -> String {
        let (host, port) = (&identity.broadcast_address, identity.broadcast_http_port);
        let key = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut prefix = self.prefix.replace("%s", &key.replace(['.', ':'], "_"));
        if !prefix.is_empty() && !prefix.ends_with('.') {
            prefix.push('.');
        }
        prefix
    }
}

/// Sends the statistics at each interval, if a daemon is configured; never returns. Failures are
/// logged once, and cost the broker nothing.
pub(super) async fn keep_exporting(broker: &Broker, identity: &Identity) {
    let settings = &broker.config().statsd;
    let Some(address) = &settings.address else { return std::future::pending().await };
    let mut report = StatsdReport::new(settings.prefix_of(identity), settings.exclude_ephemeral);
    let mut ticks = interval_at(Instant::now() + settings.interval, settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_error = None;
    loop {
        ticks.tick().await;
        let error = export(broker, address, &mut report).await.err().map(|error| describe(&error));
        if error != last_error {
            match &error {
                Some(error) => {
                    tracing::warn!(statsd = %address, %error, "statistics not sent; the next ones follow at the next interval");
                }
                None => tracing::info!(statsd = %address, "statistics are sent again"),
            }
            last_error = error;
        }
    }
}

async fn export(broker: &Broker, address: &HostPort, report: &mut StatsdReport) -> io::Result<()> {
    let settings = &broker.config().statsd;
    // each time anew: the daemon's address may change
    let socket = connect_udp(address.host_to_reach(), address.port(), TIMEOUT).await?;
    let now = broker.now();
    let topics = broker.with_state(|state| state.topic_stats(&StatsSelection::default(), now));
    let memory = settings.mem_stats.then(resident_bytes);
    send(&socket, &report.packets(&topics, memory, settings.udp_packet_size)).await
}

/// Sends all packets, also after one that failed: an error of UDP is about an earlier packet.
async fn send(socket: &UdpSocket, packets: &[String]) -> io::Result<()> {
    let mut first_error = Ok(());
    for (number, packet) in packets.iter().enumerate() {
        if number > 0 && number.is_multiple_of(BURST) {
            sleep(PAUSE).await;
        }
        let sent = timeout(TIMEOUT, socket.send(packet.as_bytes())).await;
        let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        first_error = first_error.and(sent.map(drop));
    }
    first_error
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn prefix(pattern: &str, broadcast_address: &str, broadcast_http_port: u16) -> String {
        let settings = StatsdSettings { prefix: pattern.to_owned(), ..StatsdSettings::default() };
        settings.prefix_of(&Identity {
            broadcast_address: broadcast_address.to_owned(),
            hostname: String::new(),
            tcp_port: 0,
            http_port: 0,
            broadcast_tcp_port: 0,
            broadcast_http_port,
            started: SystemTime::UNIX_EPOCH,
        })
    }

    #[test]
    fn the_prefix_names_the_broker_like_nsqd() {
        assert_eq!(prefix("nsq.%s", "a.example.org", 4151), "nsq.a_example_org_4151.");
        assert_eq!(prefix("%s.of.%s.", "::1", 80), "[__1]_80.of.[__1]_80.");
        assert_eq!(prefix("mine", "a", 4151), "mine.");
        assert_eq!(prefix("", "a", 4151), "");
        assert_eq!(prefix("%s", "a", 0), "a_0.", "a Unix socket");
    }

    #[tokio::test]
    async fn packets_after_a_failed_one_arrive() {
        let daemon = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = daemon.local_addr().unwrap();
        drop(daemon);
        let socket = connect_udp("127.0.0.1", address.port(), TIMEOUT).await.unwrap();
        // the first packet is refused, which the second one is told
        assert!(send(&socket, &["a".to_owned(), "b".to_owned()]).await.is_err());
        let daemon = UdpSocket::bind(address).await.unwrap();
        let packets: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let receive = async {
            let mut got = Vec::new();
            let mut buffer = [0; 16];
            while got.len() < packets.len() {
                let length = daemon.recv(&mut buffer).await.unwrap();
                got.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            got
        };
        let both = async { tokio::join!(send(&socket, &packets), receive) };
        let (sent, got) = timeout(Duration::from_secs(20), both).await.unwrap();
        sent.unwrap();
        assert_eq!(got, packets);
    }
}
