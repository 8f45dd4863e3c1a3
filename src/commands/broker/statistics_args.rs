//! Statistics of `mqueue broker`: nsqd's flags.

use std::time::Duration;

use mqueue::broker::state::LatencySettings;
use mqueue::broker::{BrokerConfig, StatsdSettings};
use mqueue::proto::HostPort;

use super::go_flags::{boolean, go_duration, go_whole};

/// Statistics: statsd and end-to-end latencies.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Statistics")]
pub(crate) struct StatisticsArgs {
    /// Percentile of the time from publishing to FIN to measure, above 0 and at most 1 (0.99);
    /// repeatable [default: none]
    #[arg(
        long,
        env = "MQUEUE_E2E_PROCESSING_LATENCY_PERCENTILE",
        value_name = "PERCENTILE",
        value_delimiter = ',',
        value_parser = percentile
    )]
    pub e2e_processing_latency_percentile: Vec<f64>,

    /// Time that the percentiles cover
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, default_value = "10m")]
    pub e2e_processing_latency_window_time: Duration,

    /// UDP address of a statsd daemon to send statistics to; empty: none [default: none]
    #[arg(long, env = "MQUEUE_STATSD_ADDRESS", value_name = "HOST:PORT", value_parser = daemon_address)]
    pub statsd_address: Option<DaemonAddress>,

    /// Prefix of names sent to statsd; %s stands for the broadcast address and the HTTP port
    #[arg(long, env = "MQUEUE_STATSD_PREFIX", value_name = "PREFIX", value_parser = prefix, default_value = "nsq.%s")]
    pub statsd_prefix: String,

    /// Interval of sending statistics to statsd
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, default_value = "1m")]
    pub statsd_interval: Duration,

    /// Send the resident memory to statsd
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", value_parser = boolean)]
    pub statsd_mem_stats: bool,

    /// Leave out ephemeral topics and channels
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = boolean)]
    pub statsd_exclude_ephemeral: bool,

    /// Largest packet to statsd, in bytes
    #[arg(long, value_name = "BYTES", value_parser = go_whole::<usize>(1..=65_507), default_value_t = 508)]
    pub statsd_udp_packet_size: usize,
}

/// An address, or none.
type DaemonAddress = Option<HostPort>;

fn daemon_address(text: &str) -> Result<DaemonAddress, String> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|error: mqueue::proto::InvalidHostPort| error.to_string()),
    }
}

fn percentile(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 1.0);
    number.ok_or_else(|| "use a number above 0 and at most 1, such as 0.99".to_owned())
}

/// Refuses what ends a name or a line of statsd's format.
fn prefix(text: &str) -> Result<String, String> {
    let is_wrong = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '|' | '@');
    match text.contains(is_wrong) {
        true => Err("use a name without spaces, `:`, `|` and `@`".to_owned()),
        false => Ok(text.to_owned()),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match go_duration(text)? {
        Duration::ZERO => Err("use a duration above 0".to_owned()),
        duration => Ok(duration),
    }
}

impl StatisticsArgs {
    /// Adds the settings to a broker's configuration.
    pub(crate) fn apply(&self, config: &mut BrokerConfig) {
        // nsqd's order: the highest first
        let mut percentiles = self.e2e_processing_latency_percentile.clone();
        percentiles.sort_unstable_by(|one, other| other.total_cmp(one));
        percentiles.dedup();
        config.latency = LatencySettings { percentiles, window: self.e2e_processing_latency_window_time };
        config.statsd = StatsdSettings {
            address: self.statsd_address.clone().flatten(),
            prefix: self.statsd_prefix.clone(),
            interval: self.statsd_interval,
            mem_stats: self.statsd_mem_stats,
            exclude_ephemeral: self.statsd_exclude_ephemeral,
            udp_packet_size: self.statsd_udp_packet_size,
        };
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        statistics: StatisticsArgs,
    }

    fn config(flags: &str) -> Result<BrokerConfig, String> {
        let command = Command::try_parse_from(std::iter::once("broker").chain(flags.split_whitespace()));
        let mut config = BrokerConfig::default();
        command.map_err(|error| error.to_string())?.statistics.apply(&mut config);
        Ok(config)
    }

    #[test]
    fn the_defaults_are_those_of_nsqd() {
        let (given, default) = (config("").unwrap(), BrokerConfig::default());
        assert_eq!((given.latency, given.statsd), (default.latency, default.statsd));
        assert_eq!(config("--statsd-address=").unwrap().statsd.address, None);
    }

    #[test]
    fn percentiles_are_repeatable_and_sorted() {
        let flags = "--e2e-processing-latency-percentile 0.5,1.0 --e2e-processing-latency-percentile=0.99,0.5";
        assert_eq!(config(flags).unwrap().latency.percentiles, [1.0, 0.99, 0.5]);
        for wrong in ["0", "1.01", "-1", "nan", "x", ""] {
            let said = config(&format!("--e2e-processing-latency-percentile={wrong}")).unwrap_err();
            assert!(said.contains("at most 1") || said.contains("a value is required"), "{wrong}: {said}");
        }
    }

    #[test]
    fn names_that_statsd_cannot_take_are_refused() {
        for wrong in
            ["--statsd-prefix=a:b", "--statsd-interval=0", "--statsd-interval=60", "--statsd-udp-packet-size=0"]
        {
            config(wrong).expect_err(wrong);
        }
        let flags =
            "--statsd-address=:8125 --statsd-mem-stats=false --statsd-exclude-ephemeral --statsd-interval=1m30s";
        let statsd = config(flags).unwrap().statsd;
        assert_eq!(statsd.address.unwrap().to_string(), ":8125");
        assert_eq!((statsd.mem_stats, statsd.exclude_ephemeral, statsd.interval.as_secs()), (false, true, 90));
    }
}
