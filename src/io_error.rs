//! System errors as part of a sentence.

use std::io;

use nix::errno::Errno;

/// The error's text in lower case and without its number: `no space left on device`.
pub fn describe(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(code) => Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    };
    let mut chars = text.chars();
    match chars.next() {
        // "I/O error" keeps its capital letter
        Some(first) if chars.as_str().starts_with(char::is_lowercase) => first.to_lowercase().chain(chars).collect(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_part_of_a_sentence() {
        assert_eq!(describe(&Errno::ENOSPC.into()), "no space left on device");
        assert_eq!(describe(&Errno::EIO.into()), "I/O error");
        assert_eq!(describe(&io::Error::other("Odd")), "odd");
    }
}
