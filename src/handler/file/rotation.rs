//! Rotation: when a file is followed by the next one.

use std::time::Duration;

use super::names::{InvalidNames, NameFields, RotatedNames};
use crate::proto::TopicName;

/// The rules and names of rotated files.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The size at which a file is full, in bytes.
    pub(super) size: Option<u64>,
    /// The maximum time that a file is written.
    pub(super) interval: Option<Duration>,
    /// The names; a file is also followed by the next one when the time changes the name.
    pub(super) names: RotatedNames,
}

/// The name formats of rotated files, as typed.
#[derive(Debug, Clone, Copy)]
pub struct FileNameFormats<'a> {
    /// The name, with `<TOPIC>`, `<HOST>`, `<PID>`, `<REV>` and `<DATETIME>`.
    pub filename: &'a str,
    /// The strftime format of `<DATETIME>`, in UTC.
    pub datetime: &'a str,
    /// The suffix of each name, unless the format ends with it.
    pub suffix: &'a str,
}

impl Rotation {
    /// Creates a rotation by size and age for a stream's files, written by this process. Fails on
    /// an invalid format, or one that gives each file the same name.
    pub fn new(
        formats: FileNameFormats<'_>,
        topic: &TopicName,
        size: Option<u64>,
        interval: Option<Duration>,
    ) -> Result<Self, InvalidNames> {
        let host = nix::unistd::gethostname().unwrap_or_default();
        let host = host.to_string_lossy();
        let writer = NameFields { topic, host: &host, pid: std::process::id() };
        let suffix = if formats.filename.ends_with(formats.suffix) { "" } else { formats.suffix };
        let filename = format!("{}{suffix}", formats.filename);
        let names = RotatedNames::new(&filename, formats.datetime, writer, size.is_some() || interval.is_some())?;
        Ok(Self { size, interval, names })
    }

    /// Returns true if a file of this length and age is not written any more.
    pub(super) fn is_due(&self, length: u64, age: Duration) -> bool {
        self.size.is_some_and(|size| length >= size) || self.interval.is_some_and(|interval| age >= interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_due_by_its_size_or_its_age() {
        let formats = FileNameFormats { filename: "a<REV>.gz", datetime: "", suffix: ".gz" };
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
