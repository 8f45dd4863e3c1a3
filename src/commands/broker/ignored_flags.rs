//! Flags of nsqd that are accepted, because scripts have them, and change nothing here.

use super::go_flags::{boolean, integer};

/// Flags of nsqd without a meaning. A value is checked as nsqd does.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Flags of nsqd that change nothing here")]
pub(crate) struct IgnoredArgs {
    /// Prefix of nsqd's log lines
    #[arg(long, value_name = "TEXT", hide_short_help = true, allow_hyphen_values = true)]
    pub log_prefix: Option<String>,

    /// Without effect in nsqd, too: use --log-level
    #[arg(long, value_name = "BOOL", hide_short_help = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub verbose: Option<bool>,

    /// Without effect in nsqd, too: use --node-id
    #[arg(long, value_name = "BOOL", hide_short_help = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub worker_id: Option<bool>,

    /// Channels that nsqd looks at, each 100 ms, for timeouts
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = whole)]
    pub queue_scan_selection_count: Option<i64>,

    /// Threads with which nsqd looks for timeouts
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = whole)]
    pub queue_scan_worker_pool_max: Option<i64>,
}

fn whole(text: &str) -> Result<i64, String> {
    integer(text).ok_or_else(|| "use a whole number".to_owned())
}

impl IgnoredArgs {
    /// Returns one warning for each flag that was given.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let timers = "timeouts and delays have exact timers";
        [
            ("log-prefix", self.log_prefix.is_some(), "log lines have no prefix"),
            ("verbose", self.verbose.is_some(), "it has none in nsqd either; use --log-level"),
            ("worker-id", self.worker_id.is_some(), "it has none in nsqd either; use --node-id"),
            ("queue-scan-selection-count", self.queue_scan_selection_count.is_some(), timers),
            ("queue-scan-worker-pool-max", self.queue_scan_worker_pool_max.is_some(), timers),
        ]
        .into_iter()
        .filter(|(_, is_given, _)| *is_given)
        .map(|(name, _, reason)| format!("--{name} has no effect: {reason}"))
    }
}
