//! System errors as part of a sentence.

use std::io;

/// The text that the standard library puts before the number of a system error.
const NUMBER: &str = " (os error ";

/// The error's text in lower case and without its number: `no space left on device`.
pub fn describe(error: &io::Error) -> String {
    let text = without_numbers(&error.to_string());
    let mut chars = text.chars();
    match chars.next() {
        // a word of capital letters keeps them
        Some(first) if chars.as_str().starts_with(char::is_lowercase) => first.to_lowercase().chain(chars).collect(),
        _ => text,
    }
}

/// A text without the numbers of system errors, ` (os error 28)`, wherever they are.
pub fn without_numbers(text: &str) -> String {
    let mut pieces = text.split(NUMBER);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once(')').filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit())) {
            Some((_, rest)) => out += rest,
            None => {
                out += NUMBER;
                out += piece;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_part_of_a_sentence() {
        let full = || io::Error::from_raw_os_error(28);
        assert_eq!(describe(&full()), "no space left on device");
        assert_eq!(describe(&io::Error::other("Odd")), "odd");
        assert_eq!(describe(&io::Error::other("TLS is off")), "TLS is off");
        let inner = io::Error::other(format!("cannot write a: {}, and not b: {}: free some", full(), full()));
        let expected = "cannot write a: No space left on device, and not b: No space left on device: free some";
        assert_eq!(describe(&inner), expected);
        assert_eq!(describe(&io::Error::other("a (os error x) (os error ")), "a (os error x) (os error ");
    }
}
