//! Packets that the kernel dropped from a UDP socket: the last column of `/proc/net/udp`.
//!
//! SO_RXQ_OVFL gives the same count, but only with the next packet, and after a burst there may be
//! none.

use std::os::fd::AsFd;

use tokio::net::UdpSocket;

/// The table is read up to this many times, because a read may miss a socket while others come and go.
const READS: usize = 5;

/// The drop counter of a socket.
#[derive(Debug)]
pub(super) struct KernelDrops {
    inode: u64,
    known: u64,
}

impl KernelDrops {
    /// Counts the drops of this socket from now on.
    pub(super) fn of(socket: &UdpSocket) -> Self {
        let inode = nix::sys::stat::fstat(socket.as_fd()).map_or(0, |stat| stat.st_ino);
        let mut drops = Self { inode, known: 0 };
        drops.count_new();
        drops
    }

    /// Returns the number of drops since the last call.
    pub(super) fn count_new(&mut self) -> u64 {
        let now = (0..READS).find_map(|_| self.read()).unwrap_or(self.known);
        now.saturating_sub(std::mem::replace(&mut self.known, now))
    }

    fn read(&self) -> Option<u64> {
        ["/proc/self/net/udp", "/proc/self/net/udp6"]
            .iter()
            .find_map(|path| drops_of(&std::fs::read_to_string(path).unwrap_or_default(), self.inode))
    }
}

/// Finds the drops of the socket with this inode in a table of `/proc/net/udp`.
fn drops_of(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let found = columns.nth(9)?.parse::<u64>().ok()?;
        (found == inode).then(|| columns.last()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropped_packets_of_a_burst_are_counted() {
        let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut drops = KernelDrops::of(&receiver);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut counted = 0;
        for _ in 0..100 {
            for _ in 0..100 {
                sender.send_to(&[0; 4096], receiver.local_addr().unwrap()).unwrap();
            }
            counted += drops.count_new();
        }
        // tokio has not read from the socket yet
        let receiver = receiver.into_std().unwrap();
        let kept = std::iter::from_fn(|| receiver.recv(&mut [0; 4096]).ok()).count() as u64;
        assert!(counted > 0);
        assert_eq!(counted + kept, 10_000, "what was sent was kept or dropped");
    }

    #[test]
    fn the_kernels_table_is_read_by_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1225: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 31337 2 0000000000000000 7
";
        assert_eq!((drops_of(table, 31337), drops_of(table, 1)), (Some(7), None));
    }
}
