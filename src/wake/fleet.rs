//! The streams of a fleet of nodes, recognized by their names (docs/node.md).

/// The group that holds the token.
pub const TOKEN: &str = "token";

/// True for a stream that carries a fleet's token or heartbeats. A consumer of it, or a group
/// created for it, would take them from the fleet. `has` tells whether a stream of that name
/// exists.
pub fn has_stream(name: &str, has: impl Fn(&str) -> bool) -> bool {
    let of_beats = name.strip_suffix(".beats").is_some_and(|token| token.ends_with(".token") || has(token));
    name.ends_with(".token") || of_beats || has(&format!("{name}.beats"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_streams_are_recognized_by_their_names() {
        let all = ["a.token", "a.token.beats", "tk", "tk.beats", "foo", "lone.beats"];
        let of_fleets: Vec<_> = all.into_iter().filter(|name| has_stream(name, |other| all.contains(&other))).collect();
        assert_eq!(of_fleets, ["a.token", "a.token.beats", "tk", "tk.beats"]);
    }
}
