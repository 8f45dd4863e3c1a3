//! Checks of an embedded broker's log on the disk and index in memory; nsqd reports neither.

use super::finding::{BrokerFigures, CheckId, Finding};
use mqueue::proto::stats::Stats;
use mqueue::wake::shell_commands::ApiCommands;

/// A disk is nearly full below this share of free space, or below this size, which is four log
/// segments.
const DISK_RESERVE_SHARE: u64 = 16;
const DISK_RESERVE_BYTES: u64 = 256 << 20;
/// An index is nearly full above all but this share of its limit.
const INDEX_RESERVE_SHARE: u64 = 8;

/// Reports the storage of a broker, and warns before it refuses messages. Its health tells when it
/// does.
pub(super) fn check(commands: &ApiCommands, subject: &str, http: &str, stats: &Stats) -> Option<Finding> {
    let figures = figures(stats)?;
    let message = describe(&figures);
    let Some(why) = nearly_full(&figures).filter(|_| stats.health == "OK") else {
        return Some(Finding::ok(CheckId::Log, subject, message).with(figures));
    };
    let show = commands.list(http, None);
    let fix = format!("{show}    # whose messages are these? Their consumers free space");
    Some(
        Finding::warning(CheckId::Log, subject, format!("{why}, then publishing is refused: {message}"), fix)
            .with(figures),
    )
}

/// Returns the figures; `None` for nsqd.
fn figures(stats: &Stats) -> Option<BrokerFigures> {
    let log = stats.log.as_ref();
    Some(BrokerFigures {
        log_bytes: log.map(|log| log.bytes),
        log_live_bytes: log.map(|log| log.live_bytes),
        disk_bytes: log.and_then(|log| log.disk_bytes),
        disk_free_bytes: log.and_then(|log| log.disk_free_bytes),
        index_bytes: stats.index_bytes?,
        max_index_bytes: stats.max_index_bytes,
    })
}

fn nearly_full(figures: &BrokerFigures) -> Option<&'static str> {
    let disk = figures.disk_bytes.zip(figures.disk_free_bytes);
    if disk.is_some_and(|(all, free)| free < (all / DISK_RESERVE_SHARE).min(DISK_RESERVE_BYTES)) {
        return Some("the disk of its log is nearly full");
    }
    let limit = figures.max_index_bytes.filter(|max| figures.index_bytes > max - max / INDEX_RESERVE_SHARE);
    limit.map(|_| "its index is near --max-index-memory")
}

fn describe(figures: &BrokerFigures) -> String {
    let log = match (figures.log_bytes, figures.log_live_bytes) {
        (Some(bytes), Some(live)) => format!("log {}, {} of it live", size(bytes), size(live)),
        _ => "no log".to_owned(),
    };
    let disk = figures.disk_bytes.zip(figures.disk_free_bytes);
    let disk = disk.map(|(all, free)| format!(", {} of {} on its disk free", size(free), size(all)));
    let max = figures.max_index_bytes.map(|max| format!(" of {}", size(max)));
    format!("{log}{}, index {}{}", disk.unwrap_or_default(), size(figures.index_bytes), max.unwrap_or_default())
}

/// Formats a size: `1.5 MB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use mqueue::proto::stats::LogStats;

    /// A broker with a disk of 16 GB and an index of at most 800 MB.
    fn seen(health: &str, free: u64, index: u64) -> (Level, String) {
        let log = LogStats {
            bytes: 2_500_000,
            live_bytes: 1_200,
            disk_bytes: Some(16_000_000_000),
            disk_free_bytes: Some(free),
            ..LogStats::default()
        };
        let stats = Stats {
            health: health.to_owned(),
            log: Some(log),
            index_bytes: Some(index),
            max_index_bytes: Some(800_000_000),
            ..Stats::default()
        };
        let finding = check(&ApiCommands::default(), "nsqd a:1", "a:1", &stats).unwrap();
        (finding.level, finding.message)
    }

    #[test]
    fn storage_is_reported_and_nearly_full_storage_is_a_warning() {
        let line = "log 2.5 MB, 1.2 kB of it live, 9.0 GB of 16.0 GB on its disk free, index 7 B of 800.0 MB";
        assert_eq!(seen("OK", 9_000_000_000, 7), (Level::Ok, line.to_owned()));
        let (level, message) = seen("OK", 250_000_000, 7);
        assert!(
            level == Level::Warning && message.starts_with("the disk of its log is nearly full, then"),
            "{message}"
        );
        let (level, message) = seen("OK", 9_000_000_000, 700_000_001);
        assert!(
            level == Level::Warning && message.starts_with("its index is near --max-index-memory, then"),
            "{message}"
        );
        assert_eq!(seen("NOK - no space left", 0, 7).0, Level::Ok, "its health is told");
    }

    #[test]
    fn brokers_without_storage_figures_are_accepted() {
        assert_eq!(check(&ApiCommands::default(), "nsqd a:1", "a:1", &Stats::default()), None);
        let old_version =
            Stats { health: "OK".to_owned(), log: Some(LogStats::default()), index_bytes: Some(1), ..Stats::default() };
        let finding = check(&ApiCommands::default(), "nsqd a:1", "a:1", &old_version).unwrap();
        assert_eq!((finding.level, &*finding.message), (Level::Ok, "log 0 B, 0 B of it live, index 1 B"));
    }
}
