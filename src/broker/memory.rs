//! Available memory of the machine and of the process's control groups.

use std::path::{Path, PathBuf};

/// Half of the bytes that are available to this process; the highest number if the system does not
/// say.
pub fn half_of_available_memory() -> usize {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    usize::try_from(available_memory(read) / 2).unwrap_or(usize::MAX)
}

/// Resident memory of the process, in bytes.
pub(super) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The smallest number of available bytes: of the machine, and of each control group (version 2).
fn available_memory(read: impl Fn(&Path) -> Option<String>) -> u64 {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| machine_memory(&text));
    let own = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = PathBuf::from("/sys/fs/cgroup").join(own);
    let number = |path: PathBuf| read(&path)?.trim().parse::<u64>().ok();
    let groups = own.ancestors().take_while(|path| path.starts_with("/sys/fs/cgroup"));
    let of_groups = groups.filter_map(|path| {
        let (most, used) = (number(path.join("memory.max"))?, number(path.join("memory.current"))?);
        Some(most.saturating_sub(used))
    });
    machine.into_iter().chain(of_groups).min().unwrap_or(u64::MAX)
}

/// The machine's available memory in bytes.
fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_available_memory_of_machine_and_groups_counts() {
        let files = |limit: &'static str, outer: &'static str| {
            move |path: &Path| {
                let text = match path.to_str()? {
                    "/proc/meminfo" => "MemTotal:  9000 kB\nMemAvailable:    4000 kB\n",
                    "/proc/self/cgroup" => "0::/system.slice/broker.service\n",
                    "/sys/fs/cgroup/system.slice/broker.service/memory.max" => limit,
                    "/sys/fs/cgroup/system.slice/memory.max" => outer,
                    "/sys/fs/cgroup/system.slice/broker.service/memory.current"
                    | "/sys/fs/cgroup/system.slice/memory.current" => "1000\n",
                    _ => return None,
                };
                Some(text.to_owned())
            }
        };
        assert_eq!(available_memory(files("max\n", "max\n")), 4_096_000);
        assert_eq!(available_memory(files("3000\n", "max\n")), 2_000);
        assert_eq!(available_memory(files("3000\n", "1500\n")), 500);
        assert_eq!(available_memory(files("500\n", "max\n")), 0);
        assert_eq!(available_memory(|_| None), u64::MAX);
    }
}
