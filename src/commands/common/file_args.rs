//! The files that `--handler file:PATH` writes.

use std::time::Duration;

use super::values::duration_in;
use super::values::whole;

/// The default names, as in nsq_to_file.
const FILENAME_FORMAT: &str = "<TOPIC>.<HOST><REV>.<DATETIME>.log";
const DATETIME_FORMAT: &str = "%Y-%m-%d_%H";

/// Compression and rotation of files.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Files of --handler file:PATH")]
pub(crate) struct FileArgs {
    /// Compress: one gzip member for each batch, so that everything finished can be unpacked
    /// [default: false]
    #[arg(long, env = "MQUEUE_GZIP")]
    pub gzip: bool,

    /// Compression level
    #[arg(long, env = "MQUEUE_GZIP_LEVEL", value_name = "1-9", value_parser = whole::<u32>(1..=9), default_value_t = 6)]
    pub gzip_level: u32,

    /// Start a new file at this size, in bytes; with this or one of the next three flags PATH is a
    /// folder [default: no limit]
    #[arg(long, env = "MQUEUE_ROTATE_SIZE", value_name = "BYTES", value_parser = whole::<u64>(1..))]
    pub rotate_size: Option<u64>,

    /// Start a new file with the first message this long after the file was started [default:
    /// never]
    #[arg(long, env = "MQUEUE_ROTATE_INTERVAL", value_name = "DURATION", value_parser = interval)]
    pub rotate_interval: Option<Duration>,

    /// Format of `<DATETIME>` in file names, as in strftime, in UTC; a new text starts a new file
    /// [default: %Y-%m-%d_%H]
    #[arg(long, env = "MQUEUE_DATETIME_FORMAT", value_name = "FORMAT")]
    pub datetime_format: Option<String>,

    /// Format of file names, with `<TOPIC>`, `<HOST>`, `<PID>`, `<REV>` (-000000, -000001, …) and
    /// `<DATETIME>`; --gzip adds .gz (default: `<TOPIC>.<HOST><REV>.<DATETIME>.log`)
    #[arg(long, env = "MQUEUE_FILENAME_FORMAT", value_name = "FORMAT")]
    pub filename_format: Option<String>,
}

impl FileArgs {
    /// Returns true if files are rotated.
    pub(crate) fn rotates(&self) -> bool {
        let is_limited = self.rotate_size.is_some() || self.rotate_interval.is_some();
        is_limited || self.datetime_format.is_some() || self.filename_format.is_some()
    }

    /// Returns the format of file names.
    pub(crate) fn filename_format(&self) -> &str {
        self.filename_format.as_deref().unwrap_or(FILENAME_FORMAT)
    }

    /// Returns the format of times in file names.
    pub(crate) fn datetime_format(&self) -> &str {
        self.datetime_format.as_deref().unwrap_or(DATETIME_FORMAT)
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    duration_in(text, Duration::from_secs(1)..=Duration::from_secs(366 * 86_400))
}
