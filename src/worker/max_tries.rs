//! When a message has been tried often enough: pure. The worker and the gateway have this one rule.
//!
//! ```text
//!  delivered ─┬─▶ given back untried ─────────────▶ no try
//!             ├─▶ failed ──── the last try? ──────▶ dead letter
//!             └─▶ whoever worked on it died: a try. On arrival after the last one: dead letter, and nobody works on it again
//! ```
//!
//! How many tries there were is [`Delivery::tries`](crate::client::Delivery::tries): exact on mqueue's broker. On nsqd what other
//! processes gave back counts as tries, too. That is the safe side: a dead letter can be redriven, a message that kills each of its
//! consumers stops all work behind it.

use crate::plural::times;

/// The tries that a message has; 0 for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxTries(pub u16);

impl MaxTries {
    /// True if a message that fails now is not to be tried again.
    pub fn is_last(self, tries: u16) -> bool {
        self.0 > 0 && tries >= self.0
    }

    /// The reason to give a message up that arrives for this try, without trying it; `None` if it is to be tried. With every try before
    /// used up and no verdict, whoever worked on it died.
    pub fn on_arrival(self, tries: u16) -> Option<String> {
        let times = times(self.0);
        (self.0 > 0 && tries > self.0)
            .then(|| format!("delivered {times} and never answered: whoever worked on it died, or lost its connection"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_try_is_handled_and_the_one_after_is_not() {
        let most = MaxTries(2);
        assert_eq!([1, 2, 3].map(|tries| most.is_last(tries)), [false, true, true]);
        assert_eq!([1, 2, 3].map(|tries| most.on_arrival(tries).is_some()), [false, false, true]);
    }

    #[test]
    fn none_is_no_limit() {
        assert!(!MaxTries(0).is_last(u16::MAX));
        assert_eq!(MaxTries(0).on_arrival(u16::MAX), None);
    }
}
