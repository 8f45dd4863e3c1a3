//! Wrong tokens by client address: after a few, each further token from the address is checked a
//! second later, and after ten it is refused without a check for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The number of wrong tokens that cost nothing.
const FREE: u32 = 3;
/// The number of wrong tokens after which no further one is checked.
const MAX_WRONG: u32 = 10;
/// The delay of a check after [`FREE`] wrong tokens.
const CHECK_DELAY: Duration = Duration::from_secs(1);
/// The time after which one wrong token is forgotten.
const FORGET_TIME: Duration = Duration::from_secs(6);
/// The maximum of addresses; all further ones count as one.
const MAX_ADDRESSES: usize = 1024;

/// The wrong tokens of all addresses.
#[derive(Debug, Default)]
pub(super) struct WrongTokens {
    addresses: HashMap<Option<IpAddr>, WrongCount>,
}

#[derive(Debug)]
struct WrongCount {
    wrong: u32,
    /// The time since when `wrong` was not reduced.
    since: Instant,
    /// The first wrong token was logged.
    is_logged: bool,
}

/// The decision about a token that was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TokenTurn {
    /// Check it after this time.
    Check(Duration),
    /// Do not check it.
    Refuse,
}

impl WrongTokens {
    /// Decides about a token from `address`, and counts it as wrong until [`Self::was_right`]: many
    /// tokens at once are no more than one after the other.
    pub(super) fn turn(&mut self, address: IpAddr, now: Instant) -> TokenTurn {
        self.addresses.retain(|_, count| {
            count.forget(now);
            count.wrong > 0
        });
        let key = self.key(address);
        let count = self.addresses.entry(key).or_insert(WrongCount { wrong: 0, since: now, is_logged: false });
        if count.wrong >= MAX_WRONG {
            return TokenTurn::Refuse;
        }
        count.wrong += 1;
        TokenTurn::Check(if count.wrong > FREE { CHECK_DELAY } else { Duration::ZERO })
    }

    /// Takes back the count of a token that was right.
    pub(super) fn was_right(&mut self, address: IpAddr) {
        let key = self.key(address);
        if let Some(count) = self.addresses.get_mut(&key) {
            count.wrong = count.wrong.saturating_sub(1);
        }
    }

    /// Returns true for the first wrong token of an address, until all of them are forgotten.
    pub(super) fn is_first(&mut self, address: IpAddr) -> bool {
        let key = self.key(address);
        self.addresses.get_mut(&key).is_some_and(|count| !std::mem::replace(&mut count.is_logged, true))
    }

    fn key(&self, address: IpAddr) -> Option<IpAddr> {
        let key = Some(network(address));
        (self.addresses.contains_key(&key) || self.addresses.len() < MAX_ADDRESSES).then_some(key).flatten()
    }
}

impl WrongCount {
    fn forget(&mut self, now: Instant) {
        let forgotten = now.saturating_duration_since(self.since).as_secs() / FORGET_TIME.as_secs();
        if forgotten > 0 {
            self.wrong = self.wrong.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
            self.since += FORGET_TIME * u32::try_from(forgotten).unwrap_or(0);
        }
    }
}

/// Returns the network of an IPv6 address, which is one client's; an IPv4 address as it is.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn wrong_tokens_are_slowed_then_refused_and_forgotten_one_by_one() {
        let (mut tokens, start) = (WrongTokens::default(), Instant::now());
        let turns: Vec<TokenTurn> = (0..12).map(|_| tokens.turn(LOCAL, start)).collect();
        let delays = [[Duration::ZERO; 3].as_slice(), &[CHECK_DELAY; 7]].concat();
        assert_eq!(turns[..10], delays.into_iter().map(TokenTurn::Check).collect::<Vec<_>>());
        assert_eq!(turns[10..], [TokenTurn::Refuse, TokenTurn::Refuse]);
        assert_eq!(tokens.turn("10.0.0.2".parse().unwrap(), start), TokenTurn::Check(Duration::ZERO), "another client");
        let later = start + FORGET_TIME;
        assert_eq!(tokens.turn(LOCAL, later), TokenTurn::Check(CHECK_DELAY));
        assert_eq!(tokens.turn(LOCAL, later), TokenTurn::Refuse, "one was forgotten");
        assert_eq!(tokens.turn(LOCAL, later + 20 * FORGET_TIME), TokenTurn::Check(Duration::ZERO));
    }

    #[test]
    fn right_tokens_do_not_count() {
        let (mut tokens, now) = (WrongTokens::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(tokens.turn(LOCAL, now), TokenTurn::Check(Duration::ZERO));
            tokens.was_right(LOCAL);
        }
        tokens.turn(LOCAL, now);
        assert!(tokens.is_first(LOCAL) && !tokens.is_first(LOCAL), "it is logged once");
    }

    #[test]
    fn addresses_are_limited_and_an_ipv6_network_is_one() {
        let (mut tokens, now) = (WrongTokens::default(), Instant::now());
        for number in 0..5000u32 {
            tokens.turn(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(tokens.addresses.len() <= MAX_ADDRESSES + 1, "{}", tokens.addresses.len());
        let mut tokens = WrongTokens::default();
        for number in 0..MAX_WRONG {
            tokens.turn(format!("2001:db8::{number}").parse().unwrap(), now);
        }
        assert_eq!(tokens.turn("2001:db8::ffff".parse().unwrap(), now), TokenTurn::Refuse);
    }
}
