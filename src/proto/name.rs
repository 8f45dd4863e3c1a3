//! Names of topics and channels; an invalid name cannot be constructed.
//!
//! nsqd's rule (`internal/protocol/names.go`): 1 to 64 characters of `. a-z A-Z 0-9 _ -`, including
//! an optional suffix `#ephemeral` for a topic or channel that vanishes with its last client.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name in characters, suffix included.
const MAX_LENGTH: usize = 64;
const EPHEMERAL: &str = "#ephemeral";

/// The error for a name that nsqd would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid {kind} {name:?}: use letters, digits, . _ - (at most 64), with #ephemeral at the end if it may vanish"
)]
pub struct InvalidName {
    kind: &'static str,
    name: String,
}

/// True if nsqd accepts `name` for a topic or a channel.
fn is_valid(name: &str) -> bool {
    let stem = name.strip_suffix(EPHEMERAL).unwrap_or(name);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_LENGTH).contains(&name.len()) && !stem.is_empty() && stem.bytes().all(allowed)
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and keeps a name.
            ///
            /// # Errors
            /// nsqd would refuse the name.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                match is_valid(name) {
                    true => Ok(Self(name.into())),
                    false => Err(InvalidName { kind: $kind, name: name.chars().take(100).collect() }),
                }
            }

            /// True if [`new`](Self::new) accepts `name`.
            pub fn is_valid(name: &str) -> bool {
                is_valid(name)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// True for a name that ends in `#ephemeral`: the topic or channel vanishes with its
            /// last client, and its messages are never written to disk.
            pub fn is_ephemeral(&self) -> bool {
                self.0.ends_with(EPHEMERAL)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(&name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// The name of a topic (in commands: a *stream*): 1 to 64 characters of `. a-z A-Z 0-9 _ -`,
    /// with an optional suffix `#ephemeral`. Cheap to clone.
    ///
    /// # Examples
    /// ```
    /// use mqueue::proto::TopicName;
    ///
    /// let topic = TopicName::new("orders.eu")?;
    /// assert_eq!(topic.as_str(), "orders.eu");
    /// assert!("order list".parse::<TopicName>().is_err()); // no blanks
    /// # Ok::<(), mqueue::proto::InvalidName>(())
    /// ```
    TopicName,
    "stream"
);
name!(
    /// The name of a channel of a topic (in commands: a *group*), with the rule of [`TopicName`].
    /// Cheap to clone.
    ///
    /// # Examples
    /// ```
    /// use mqueue::proto::ChannelName;
    ///
    /// let channel: ChannelName = "archive#ephemeral".parse()?;
    /// assert!(channel.is_ephemeral());
    /// # Ok::<(), mqueue::proto::InvalidName>(())
    /// ```
    ChannelName,
    "group"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_that_nsqd_accepts() {
        let longest = "x".repeat(64);
        for name in ["a", "foo.bar_baz-1", "a#ephemeral", longest.as_str()] {
            assert!(TopicName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn refuses_names_that_nsqd_refuses() {
        let (long, long_ephemeral) = ("x".repeat(65), format!("{}#ephemeral", "x".repeat(55)));
        for name in ["", "#ephemeral", "a b", "a#eph", "ü", "a/b", "a#ephemeral#ephemeral", &long, &long_ephemeral] {
            assert!(ChannelName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_error_names_the_input_and_the_rule() {
        let error = TopicName::new("a b").unwrap_err().to_string();
        assert!(error.starts_with(r#"invalid stream "a b": use letters, digits, . _ - (at most 64)"#), "{error}");
    }
}
