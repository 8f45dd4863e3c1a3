//! The files that `--handler file:PATH` writes.

use std::time::Duration;

use super::values::duration_in;
use super::values::whole;

/// The default names, the same as nsq_to_file's.
const FILENAME_FORMAT: &str = "<TOPIC>.<HOST><REV>.<DATETIME>.log";
const DATETIME_FORMAT: &str = "%Y-%m-%d_%H";

/// How files are written that take turns, or are compressed.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Files of --handler file:PATH")]
pub(crate) struct FileArgs {
    /// Compress: a gzip member for each batch, so that what left the queue can be unpacked whatever happens
    #[arg(long, env = "GZIP_FILES")]
    pub gzip: bool,

    /// How hard to compress
    #[arg(long, env = "GZIP_LEVEL", value_name = "1-9", value_parser = whole::<u32>(1..=9), default_value_t = 6)]
    pub gzip_level: u32,

    /// Begin another file when one has this size. With this or one of the next three flags PATH is a folder [default: no limit]
    #[arg(long, env = "ROTATE_SIZE", value_name = "BYTES", value_parser = whole::<u64>(1..))]
    pub rotate_size: Option<u64>,

    /// Begin another file when a message comes this long after one was begun [default: never]
    #[arg(long, env = "ROTATE_INTERVAL", value_name = "DURATION", value_parser = interval)]
    pub rotate_interval: Option<Duration>,

    /// What `<DATETIME>` is in a file's name, in UTC: %Y %m %d %H %M %S and others of strftime; another time's text is another file
    /// [default: %Y-%m-%d_%H]
    #[arg(long, env = "DATETIME_FORMAT", value_name = "FORMAT")]
    pub datetime_format: Option<String>,

    /// Names of the files, with `<TOPIC>`, `<HOST>`, `<PID>`, `<REV>` (-000000, -000001, …) and `<DATETIME>`; .gz is added with --gzip
    /// (`<TOPIC>.<HOST><REV>.<DATETIME>.log` by default)
    #[arg(long, env = "FILENAME_FORMAT", value_name = "FORMAT")]
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
