//! The list as a table.

use std::time::Duration;

use crate::commands::common::short_duration::short_duration;
use crate::commands::common::stream_listing::{GroupListing, StreamListing};
use crate::commands::common::text_table::TextTable;

/// Formats the rows, with rates if they were measured.
pub(super) fn text(rows: &[StreamListing], with_rates: bool) -> String {
    let head = [
        "STREAM/GROUP",
        "DEPTH",
        "IN FLIGHT",
        "DEFERRED",
        "OLDEST",
        "IN/S",
        "OUT/S",
        "CONSUMERS",
        "DEAD LETTERS",
        "STATE",
    ];
    let mut table = TextTable::new(head).with_text_in(9);
    let rate = |rate: Option<f64>| match rate {
        Some(rate) if with_rates => in_digits(rate),
        _ => "-".to_owned(),
    };
    let nothing = || "-".to_owned();
    for stream in rows {
        table.row([
            stream.stream.to_string(),
            stream.state.depth.to_string(),
            nothing(),
            nothing(),
            age(stream.state.oldest_ms),
            rate(stream.published_per_second),
            nothing(),
            nothing(),
            stream.dead_letters.to_string(),
            paused(stream.state.paused_on, stream.state.nsqds),
        ]);
        for group in &stream.groups {
            table.row([
                format!("  {}", group.group),
                group.state.depth.to_string(),
                group.state.in_flight.to_string(),
                group.state.deferred.to_string(),
                age(group.state.oldest_ms),
                nothing(),
                rate(group.finished_per_second),
                consumers(group),
                nothing(),
                paused(group.state.paused_on, group.state.nsqds),
            ]);
        }
    }
    table.text()
}

/// The age of the oldest message, if there is one and its broker tells it.
fn age(oldest_ms: Option<u64>) -> String {
    oldest_ms.map_or_else(|| "-".to_owned(), |millis| short_duration(Duration::from_millis(millis)))
}

fn consumers(group: &GroupListing) -> String {
    if group.asleep { "asleep".to_owned() } else { group.state.connections.to_string() }
}

/// Describes a pause; empty if there is none. A stream or group can be paused on some nsqds only.
fn paused(on: u64, nsqds: u64) -> String {
    match on {
        0 => String::new(),
        on if on == nsqds => "paused".to_owned(),
        on => format!("paused on {on} of {nsqds}"),
    }
}

/// Formats a rate: small ones with a decimal.
fn in_digits(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use mqueue::cluster::{ClusterGroup, ClusterStream};

    #[test]
    fn the_table_shows_streams_groups_and_pauses() {
        let mut group = ClusterGroup::default();
        (group.depth, group.nsqds, group.paused_on, group.oldest_ms) = (12, 3, 1, Some(192_345));
        let groups = vec![GroupListing {
            group: "billing".parse().unwrap(),
            state: group,
            finished_per_second: Some(1234.56),
            oldest: None,
            asleep: true,
        }];
        let mut state = ClusterStream::default();
        (state.nsqds, state.paused_on, state.groups) = (3, 3, BTreeMap::new());
        let row = StreamListing {
            stream: "orders".parse().unwrap(),
            state,
            published_per_second: Some(0.5),
            oldest: None,
            dead_letters: 2,
            groups,
            is_shown: true,
        };
        assert_eq!(
            text(std::slice::from_ref(&row), true),
            "\
STREAM/GROUP  DEPTH  IN FLIGHT  DEFERRED  OLDEST  IN/S  OUT/S  CONSUMERS  DEAD LETTERS  STATE
orders            0          -         -       -   0.5      -          -             2  paused
  billing        12          0         0   3m12s     -   1235     asleep             -  paused on 1 of 3
"
        );
        assert!(!text(&[row], false).contains("0.5"));
    }
}
