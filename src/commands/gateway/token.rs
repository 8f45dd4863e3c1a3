//! Job tokens, with which workers answer jobs. A token cannot be guessed, contains its gateway's
//! id, and works once.

use std::fmt;
use std::str::FromStr;

/// The secret part of a token: 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct JobSecret(pub(super) u128);

/// A job's token: `0f3a91c2` (the gateway) and 32 more hexadecimal digits (the secret).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JobToken {
    pub(super) gateway: u32,
    pub(super) secret: JobSecret,
}

impl fmt::Display for JobToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:032x}", self.gateway, self.secret.0)
    }
}

impl FromStr for JobToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_token = text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_token {
            return Err(());
        }
        let (gateway, secret) = text.split_at(8);
        Ok(Self {
            gateway: u32::from_str_radix(gateway, 16).map_err(|_| ())?,
            secret: JobSecret(u128::from_str_radix(secret, 16).map_err(|_| ())?),
        })
    }
}

/// Generates the tokens of one gateway. Reads the system's randomness in large chunks.
#[derive(Debug)]
pub(super) struct TokenGenerator {
    gateway: u32,
    random: Vec<u8>,
}

/// Bytes of randomness read at once.
const RANDOM_BUFFER: usize = 4096;

impl TokenGenerator {
    /// Creates a generator with a random gateway id. Fails if the system provides no randomness.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { gateway: getrandom::u32()?, random: Vec::new() })
    }

    /// The gateway id in its tokens.
    pub(super) fn gateway(&self) -> u32 {
        self.gateway
    }

    pub(super) fn token(&mut self) -> Result<JobToken, getrandom::Error> {
        if self.random.is_empty() {
            let mut fresh = vec![0; RANDOM_BUFFER];
            getrandom::fill(&mut fresh)?;
            self.random = fresh;
        }
        let secret = u128::from_ne_bytes(*self.random.last_chunk().expect("the supply holds whole secrets"));
        self.random.truncate(self.random.len() - size_of::<u128>());
        Ok(JobToken { gateway: self.gateway, secret: JobSecret(secret) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn tokens_round_trip_and_other_texts_are_refused() {
        let mut tokens = TokenGenerator::new().unwrap();
        let token = tokens.token().unwrap();
        assert_eq!(token.to_string().parse(), Ok(token));
        let text = token.to_string();
        for wrong in
            ["", "done", &text[1..], &format!("{text}0"), &text.replace(&text[..1], "G"), &format!("+{}", &text[1..])]
        {
            assert_eq!(wrong.parse::<JobToken>(), Err(()), "{wrong:?}");
        }
    }

    #[test]
    fn tokens_are_unique() {
        let mut tokens = TokenGenerator::new().unwrap();
        let tokens: HashSet<JobSecret> = (0..10_000).map(|_| tokens.token().unwrap().secret).collect();
        assert_eq!(tokens.len(), 10_000);
    }
}
