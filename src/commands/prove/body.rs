//! Numbered bodies that can be recognised, and checked to the last byte.

use std::collections::HashSet;

use bytes::Bytes;
use fastrand::Rng;

/// Makes the body of a message of a case: a line with its number, then random bytes.
pub(super) fn of_message(seed: u64, number: usize, longest: usize) -> Bytes {
    let mut random = Rng::with_seed(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut body = format!("prove {seed:016x} {number}\n").into_bytes();
    let length = random.usize(body.len()..=longest.max(body.len()));
    let filler = length - body.len();
    body.extend(std::iter::repeat_with(|| random.u8(..)).take(filler));
    body.into()
}

/// Finds the numbers of the bodies in these bytes.
pub(super) fn numbers_in(bytes: &[u8], seed: u64) -> HashSet<usize> {
    let head = format!("prove {seed:016x} ");
    let numbers = memchr::memmem::find_iter(bytes, &head).filter_map(|at| {
        let digits = bytes[at + head.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.map(|digit| char::from(*digit)).collect::<String>().parse().ok()
    });
    numbers.collect()
}

/// Reads the number of a body.
///
/// # Errors
/// The body is of no message of this case; described.
pub(super) fn number(body: &[u8], seed: u64, longest: usize, published: usize) -> Result<usize, String> {
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(&line[..line.len().min(60)]).escape_debug().to_string();
    let head = format!("prove {seed:016x} ");
    let number = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(&head)?.parse::<usize>().ok());
    let Some(number) = number else { return Err(format!("a body of no message: {text:?}")) };
    if number >= published {
        return Err(format!("message {number}, of {published} that were published"));
    }
    if of_message(seed, number, longest) != body {
        return Err(format!("message {number}, with other bytes than were published"));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_found_among_other_bytes() {
        let bytes = [&b"xx"[..], &of_message(7, 12, 200), b"prove", &of_message(8, 13, 200), &of_message(7, 4, 20)];
        assert_eq!(numbers_in(&bytes.concat(), 7), HashSet::from([12, 4]));
    }

    #[test]
    fn a_body_is_recognised_and_a_changed_one_is_not() {
        for n in 0..100 {
            let body = of_message(7, n, 200);
            assert!(body.len() <= 200);
            assert_eq!(number(&body, 7, 200, 100), Ok(n));
            assert!(number(&body, 8, 200, 100).is_err(), "another case");
            assert!(number(&body, 7, 200, n).is_err(), "not published");
            let mut changed = body.to_vec();
            *changed.last_mut().unwrap() ^= 1;
            assert!(number(&changed, 7, 200, 100).is_err(), "a changed byte");
        }
    }
}
