//! Counts with nouns in texts for people.

use std::fmt::Display;

/// A number and its noun: `1 message`, `2 messages`. For nouns whose plural ends in a plain `s`.
pub fn count<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let s = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{s}")
}

/// A number of times: `once`, `2 times`.
pub fn times<N: Display + PartialEq + From<u8>>(number: N) -> String {
    if number == N::from(1) { "once".to_owned() } else { format!("{number} times") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_nothing_else_is() {
        assert_eq!(
            [0_u64, 1, 2].map(|n| count(n, "dead letter")),
            ["0 dead letters", "1 dead letter", "2 dead letters"]
        );
        assert_eq!([0_u16, 1, 2].map(times), ["0 times", "once", "2 times"]);
    }
}
