//! nsqd's log levels, by word and by number.

use std::str::FromStr;

/// A log level of nsqd (`internal/lg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// `debug`.
    Debug = 1,
    /// `info`.
    #[default]
    Info = 2,
    /// `warn`.
    Warn = 3,
    /// `error`.
    Error = 4,
    /// `fatal`.
    Fatal = 5,
}

impl LogLevel {
    /// nsqd's number of the level.
    pub fn number(self) -> i32 {
        self as i32
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word.to_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "fatal" => Ok(Self::Fatal),
            _ => Err("use debug, info, warn, error or fatal".to_owned()),
        }
    }
}
