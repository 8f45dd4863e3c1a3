//! When a file is followed by the next one.

use std::time::Duration;

use super::names::{InvalidNames, Names, Writer};
use crate::proto::TopicName;

/// Which files take turns, and when.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The bytes after which a file is full.
    pub(super) size: Option<u64>,
    /// How long a file is written at the most.
    pub(super) interval: Option<Duration>,
    /// A file is also followed by the next one when the time gives another name.
    pub(super) names: Names,
}

/// How files that take turns are called: formats as they are typed.
#[derive(Debug, Clone, Copy)]
pub struct FileNames<'a> {
    /// With `<TOPIC>`, `<HOST>`, `<PID>`, `<REV>` and `<DATETIME>`.
    pub filename: &'a str,
    /// What `<DATETIME>` is, as strftime has it, in UTC.
    pub datetime: &'a str,
    /// Ends each name, if it is not there already.
    pub suffix: &'a str,
}

impl Rotation {
    /// Files of a stream, written by this process, that are full at this size and stale after this time. Fails on a format that makes no
    /// names, or the same one for each.
    pub fn new(
        formats: FileNames<'_>,
        topic: &TopicName,
        size: Option<u64>,
        interval: Option<Duration>,
    ) -> Result<Self, InvalidNames> {
        let host = nix::unistd::gethostname().unwrap_or_default();
        let host = host.to_string_lossy();
        let writer = Writer { topic, host: &host, pid: std::process::id() };
        let suffix = if formats.filename.ends_with(formats.suffix) { "" } else { formats.suffix };
        let filename = format!("{}{suffix}", formats.filename);
        let names = Names::new(&filename, formats.datetime, writer, size.is_some() || interval.is_some())?;
        Ok(Self { size, interval, names })
    }

    /// True if a file of this length, begun so long ago, is written no more.
    pub(super) fn is_due(&self, length: u64, age: Duration) -> bool {
        self.size.is_some_and(|size| length >= size) || self.interval.is_some_and(|interval| age >= interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_due_by_its_size_or_its_age() {
        let formats = FileNames { filename: "a<REV>.gz", datetime: "", suffix: ".gz" };
        let due = |size, interval: Option<u64>, length, age| {
            let interval = interval.map(Duration::from_secs);
            let rotation = Rotation::new(formats, &"foo".parse().unwrap(), size, interval).unwrap();
            rotation.is_due(length, Duration::from_secs(age))
        };
        assert!(!due(None, None, u64::MAX, u64::MAX));
        assert_eq!((due(Some(10), None, 9, 99), due(Some(10), None, 10, 0)), (false, true));
        assert_eq!((due(None, Some(10), 99, 9), due(None, Some(10), 0, 10)), (false, true));
    }
}
