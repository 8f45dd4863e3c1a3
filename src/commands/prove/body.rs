//! Numbered bodies that can be recognised, and checked to the last byte.

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
