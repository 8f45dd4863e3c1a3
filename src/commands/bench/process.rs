//! Processor time and memory of processes as `/proc` counts them, and the process that listens on a
//! port.

use std::collections::BTreeSet;
use std::fs::{read_dir, read_link, read_to_string};
use std::net::ToSocketAddrs;
use std::time::Duration;

use mqueue::client::Address;

/// The kernel's clock ticks a second, as `/proc` counts them (USER_HZ): 100 on all that Linux runs
/// on today.
const TICKS: u64 = 100;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: String,
}

impl Process {
    /// Finds the process with this id; `None` if there is none.
    pub(super) fn find(pid: u32) -> Option<Self> {
        let name = read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Self { pid, name: name.trim().to_owned() })
    }

    /// Processor time of all its threads, including ended ones, to 10 ms.
    pub(super) fn processor_time(&self) -> Option<Duration> {
        processor_time(&read_to_string(format!("/proc/{}/stat", self.pid)).ok()?)
    }

    /// Resident memory in bytes, shared pages included.
    pub(super) fn memory(&self) -> Option<u64> {
        let status = read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}, {}", self.pid, self.name)
    }
}

/// Reads user and system time, the 14th and 15th field, from `/proc/PID/stat`. The second field,
/// the name, may contain blanks.
fn processor_time(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(Duration::from_millis((user + system) * 1000 / TICKS))
}

/// Finds the process that listens at this address, if the address is a loopback one and the process
/// may be inspected.
pub(super) fn listening_at(address: &Address) -> Option<Process> {
    let mut found = (address.host(), address.port()).to_socket_addrs().ok()?;
    if !found.any(|found| found.ip().is_loopback()) {
        return None;
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| read_to_string(path).unwrap_or_default());
    let sockets: BTreeSet<String> = tables.iter().flat_map(|table| listeners(table, address.port())).collect();
    let pids = read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds(*pid, &sockets)).find_map(Process::find)
}

/// Lists the sockets that listen on this port, as `/proc/PID/fd` links name them. The columns of
/// `/proc/net/tcp` are: number, local address, remote address, state (0A: listening), five more,
/// inode.
fn listeners(table: &str, port: u16) -> impl Iterator<Item = String> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        (local == port && *fields.get(3)? == "0A").then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    })
}

fn holds(pid: u32, sockets: &BTreeSet<String>) -> bool {
    let Ok(descriptors) = read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        read_link(descriptor.path()).is_ok_and(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listening_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        assert_eq!(listening_at(&address).map(|process| process.pid), Some(std::process::id()));
        let elsewhere = format!("192.0.2.1:{}", address.port()).parse().unwrap();
        assert_eq!(listening_at(&elsewhere), None, "that is another machine");
    }

    #[test]
    fn processor_time_is_read_past_a_name_with_blanks_and_brackets() {
        let stat = "77 (a ) b) S 1 77 77 0 -1 4194304 100 0 0 0 1234 66 0 0 20 0 4 0 100 1000 10";
        assert_eq!(processor_time(stat), Some(Duration::from_secs(13)));
        assert_eq!(processor_time("77 (a"), None);
        let own = Process::find(std::process::id()).unwrap();
        assert!(own.processor_time().is_some() && own.memory().is_some_and(|bytes| bytes > 1_000_000));
    }
}
