//! Tokens: what a worker answers a job with. They cannot be guessed, name their gateway, and work once.

use std::fmt;
use std::str::FromStr;

/// The unguessable part: 128 bits of the system's randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Secret(pub(super) u128);

/// A job's token: `0f3a91c2` (the gateway) and 32 more hexadecimal digits (the secret).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) gateway: u32,
    pub(super) secret: Secret,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:032x}", self.gateway, self.secret.0)
    }
}

impl FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_token = text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_token {
            return Err(());
        }
        let (gateway, secret) = text.split_at(8);
        Ok(Self {
            gateway: u32::from_str_radix(gateway, 16).map_err(|_| ())?,
            secret: Secret(u128::from_str_radix(secret, 16).map_err(|_| ())?),
        })
    }
}

/// Makes tokens of one gateway. Asks the system for many at once.
#[derive(Debug)]
pub(super) struct Mint {
    gateway: u32,
    random: Vec<u8>,
}

/// Bytes of randomness that are asked for at once.
const SUPPLY: usize = 4096;

impl Mint {
    /// Fails if the system has no randomness to give.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { gateway: getrandom::u32()?, random: Vec::new() })
    }

    /// The gateway's part of its tokens.
    pub(super) fn gateway(&self) -> u32 {
        self.gateway
    }

    pub(super) fn token(&mut self) -> Result<Token, getrandom::Error> {
        if self.random.is_empty() {
            let mut fresh = vec![0; SUPPLY];
            getrandom::fill(&mut fresh)?;
            self.random = fresh;
        }
        let secret = u128::from_ne_bytes(*self.random.last_chunk().expect("the supply holds whole secrets"));
        self.random.truncate(self.random.len() - size_of::<u128>());
        Ok(Token { gateway: self.gateway, secret: Secret(secret) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_token_reads_back_and_nothing_else_does() {
        let mut mint = Mint::new().unwrap();
        let token = mint.token().unwrap();
        assert_eq!(token.to_string().parse(), Ok(token));
        let text = token.to_string();
        for wrong in
            ["", "done", &text[1..], &format!("{text}0"), &text.replace(&text[..1], "G"), &format!("+{}", &text[1..])]
        {
            assert_eq!(wrong.parse::<Token>(), Err(()), "{wrong:?}");
        }
    }

    #[test]
    fn no_token_comes_twice() {
        let mut mint = Mint::new().unwrap();
        let tokens: HashSet<Secret> = (0..10_000).map(|_| mint.token().unwrap().secret).collect();
        assert_eq!(tokens.len(), 10_000);
    }
}
