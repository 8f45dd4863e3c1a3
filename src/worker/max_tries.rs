//! The limit of tries of a message: pure. The worker and the gateway share this rule.
//!
//! ```text
//!  delivered ─┬─▶ requeued untried ──────────▶ not a try
//!             ├─▶ failed, and the last try ───▶ dead letter
//!             └─▶ its consumer died: a try ───▶ after the last one: dead letter on arrival, untried
//! ```
//!
//! [`Delivery::tries`](crate::client::Delivery::tries) counts the tries: exactly on mqueue's
//! broker. On nsqd, deliveries that other processes requeued untried count as tries, too. That is
//! the safe side: a dead letter can be redriven, while a message that kills each of its consumers
//! blocks all work behind it.

use crate::plural::times;

/// The maximum number of tries; 0 for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxTries(pub u16);

impl MaxTries {
    /// True if a message that fails in this try must not be retried.
    pub fn is_last(self, tries: u16) -> bool {
        self.0 > 0 && tries >= self.0
    }

    /// The reason to make an arriving message a dead letter without trying it; `None` if it may be
    /// tried. If all earlier tries are used up without a verdict, the consumers that handled it
    /// died.
    pub fn on_arrival(self, tries: u16) -> Option<String> {
        let times = times(self.0);
        (self.0 > 0 && tries > self.0)
            .then(|| format!("delivered {times} and never answered: its consumer died or lost its connection"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_try_is_handled_and_a_further_delivery_is_not() {
        let most = MaxTries(2);
        assert_eq!([1, 2, 3].map(|tries| most.is_last(tries)), [false, true, true]);
        assert_eq!([1, 2, 3].map(|tries| most.on_arrival(tries).is_some()), [false, false, true]);
    }

    #[test]
    fn zero_means_no_limit() {
        assert!(!MaxTries(0).is_last(u16::MAX));
        assert_eq!(MaxTries(0).on_arrival(u16::MAX), None);
    }
}
