//! The rows of the view: which streams and groups are shown, and in which order.

use crate::commands::common::message_ages::MessageAge;
use crate::commands::common::stream_listing::{GroupListing, StreamListing};

/// A row: a stream's number, or that of one of its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowPlace {
    pub(super) stream: usize,
    pub(super) group: Option<usize>,
}

/// The order of the streams, and of the groups of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopSort {
    Name,
    Depth,
    In,
    Out,
    Oldest,
    DeadLetters,
    Consumers,
}

impl TopSort {
    const ALL: [Self; 7] =
        [Self::Name, Self::Depth, Self::In, Self::Out, Self::Oldest, Self::DeadLetters, Self::Consumers];

    pub(super) fn next(self) -> Self {
        let number = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(number + 1) % Self::ALL.len()]
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Depth => "depth",
            Self::In => "in/s",
            Self::Out => "out/s",
            Self::Oldest => "oldest",
            Self::DeadLetters => "dead",
            Self::Consumers => "consumers",
        }
    }
}

/// A stream that is shown, with the numbers of its groups that are.
pub(super) type ShownStream = (usize, Vec<usize>);

/// Returns the streams whose name has the filter's text in it, with all groups, and those of which
/// a group has it in its name (`STREAM/GROUP`), with these groups.
pub(super) fn matches(
    streams: &[StreamListing],
    filter: &str,
    is_shown: impl Fn(&StreamListing) -> bool,
) -> Vec<ShownStream> {
    let filter = filter.to_lowercase();
    let has = |name: &str| name.to_lowercase().contains(&filter);
    let shown = streams.iter().enumerate().filter(|(_, stream)| is_shown(stream));
    let chosen = shown.filter_map(|(number, stream)| {
        let name = stream.stream.as_str();
        if filter.is_empty() || has(name) {
            return Some((number, (0..stream.groups.len()).collect()));
        }
        let groups = stream.groups.iter().enumerate();
        let groups: Vec<usize> =
            groups.filter(|(_, group)| has(&format!("{name}/{}", group.group))).map(|(number, _)| number).collect();
        (!groups.is_empty()).then_some((number, groups))
    });
    chosen.collect()
}

/// Sorts the streams, and the groups of each; the largest number first.
pub(super) fn ordered(streams: &[StreamListing], chosen: Vec<ShownStream>, sort: TopSort) -> Vec<RowPlace> {
    let place = |stream, group| RowPlace { stream, group };
    let mut keyed: Vec<(f64, usize, Vec<usize>)> = Vec::with_capacity(chosen.len());
    for (number, groups) in chosen {
        let stream = &streams[number];
        let key = |group: usize| group_key(&stream.groups[group], sort);
        let mut keys: Vec<(f64, usize)> = groups.into_iter().map(|group| (key(group), group)).collect();
        keys.sort_by(|a, b| b.0.total_cmp(&a.0));
        let own = match sort {
            TopSort::Oldest => keys.first().map_or(0.0, |(age, _)| *age).max(seconds(stream.oldest)),
            TopSort::In => stream.published_per_second.unwrap_or(0.0),
            TopSort::DeadLetters => stream.dead_letters as f64,
            TopSort::Depth => stream.state.depth as f64 + sum(&keys),
            TopSort::Name | TopSort::Out | TopSort::Consumers => sum(&keys),
        };
        keyed.push((own, number, keys.into_iter().map(|(_, group)| group).collect()));
    }
    keyed.sort_by(|a, b| b.0.total_cmp(&a.0));
    let rows = keyed.into_iter().flat_map(|(_, stream, groups)| {
        let groups = groups.into_iter().map(move |group| place(stream, Some(group)));
        std::iter::once(place(stream, None)).chain(groups)
    });
    rows.collect()
}

/// Sums the groups' numbers. The sum of nothing is 0, and not -0, which is sorted before it.
fn sum(keys: &[(f64, usize)]) -> f64 {
    keys.iter().fold(0.0, |sum, (number, _)| sum + number)
}

fn group_key(group: &GroupListing, sort: TopSort) -> f64 {
    match sort {
        TopSort::Depth => group.state.depth as f64,
        TopSort::Out => group.finished_per_second.unwrap_or(0.0),
        TopSort::Consumers => group.state.connections as f64,
        TopSort::Oldest => seconds(group.oldest),
        TopSort::Name | TopSort::In | TopSort::DeadLetters => 0.0,
    }
}

fn seconds(age: Option<MessageAge>) -> f64 {
    age.map_or(0.0, |age| age.duration().as_secs_f64())
}
