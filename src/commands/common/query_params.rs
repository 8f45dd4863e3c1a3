//! A request's query parameters: only known ones, each at most once.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::http::Uri;

use super::json_response::RequestError;

/// The longest delay of a message: nsqd's default `--max-req-timeout`.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(3600);

/// The parameters after the `?`.
#[derive(Debug)]
pub(crate) struct QueryParams(Vec<(String, String)>);

impl QueryParams {
    /// Parses the query. Fails if a parameter is unknown or repeated, so that mistakes are noticed.
    pub(crate) fn parse(uri: &Uri, known: &[&str]) -> Result<Self, RequestError> {
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let known = if known.is_empty() {
                    "this path takes none".to_owned()
                } else {
                    format!("use {}", known.join(", "))
                };
                return Err(RequestError::unprocessable(format!("unknown parameter {name:?}: {known}")));
            }
            if params.iter().any(|(other, _)| *other == *name) {
                return Err(RequestError::unprocessable(format!("parameter {name:?} is repeated: give it once")));
            }
            params.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(params))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// True or false; false if the parameter is not there.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, RequestError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => {
                Err(RequestError::unprocessable(format!("invalid {name} {text:?}: use {name}=true or {name}=false")))
            }
        }
    }

    pub(crate) fn number(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, RequestError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let wrong = || {
            RequestError::unprocessable(format!("invalid {name} {text:?}: use {} to {}", range.start(), range.end()))
        };
        number.ok_or_else(wrong).map(Some)
    }

    pub(crate) fn duration(
        &self,
        name: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, RequestError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = |why: String| RequestError::unprocessable(format!("invalid {name} {text:?}: {why}"));
        super::values::duration_in(text, range).map_err(wrong).map(Some)
    }

    /// A worker's name.
    pub(crate) fn name(&self, name: &str) -> Result<Option<String>, RequestError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = |why| RequestError::unprocessable(format!("invalid {name} {text:?}: {why}"));
        crate::commands::worker::args::name(text).map_err(wrong).map(Some)
    }

    /// A text for logs: one line of at most `max_chars` characters.
    pub(crate) fn text(&self, name: &str, max_chars: usize) -> Result<Option<String>, RequestError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match !text.is_empty() && text.chars().count() <= max_chars && !text.chars().any(char::is_control) {
            true => Ok(Some(text.to_owned())),
            false => {
                Err(RequestError::unprocessable(format!("invalid {name}: use 1 to {max_chars} printable characters")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Result<QueryParams, RequestError> {
        QueryParams::parse(&format!("/x?{query}").parse().unwrap(), &["a", "b"])
    }

    #[test]
    fn unknown_repeated_and_out_of_range_parameters_are_refused() {
        let good = params("a=7&b=5s").unwrap();
        assert_eq!(good.number("a", 1..=7).unwrap(), Some(7));
        assert_eq!(good.number("c", 1..=7).unwrap(), None);
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        assert_eq!(good.duration("b", second..=hour).unwrap(), Some(5 * second));
        assert!(good.number("a", 1..=6).is_err() && good.number("b", 1..=6).is_err());
        assert!(good.duration("a", 8 * second..=hour).is_err());
        assert_eq!(params("a=true").unwrap().flag("a").ok(), Some(true));
        assert_eq!(params("").unwrap().flag("a").ok(), Some(false));
        assert!(params("a=yes").unwrap().flag("a").is_err());
        assert!(params("c=1").is_err() && params("a=1&a=2").is_err());
        assert!(params("a=x%0Ay").unwrap().text("a", 9).is_err(), "no line of its own in a log");
    }
}
