//! Query parameters of a request; the first of several with the same name counts.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::response::ApiError;
use crate::proto::{ChannelName, TopicName};

/// Parsed query string.
#[derive(Debug)]
pub(super) struct RequestQuery(Vec<(String, String)>);

impl RequestQuery {
    fn parse(text: &str) -> Result<Self, ApiError> {
        // like Go's url.ParseQuery
        if text.contains(';') || !has_sound_escapes(text) {
            return Err(ApiError::new(400, "INVALID_REQUEST"));
        }
        Ok(Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean parameter; `None` if it is missing or neither `true`, `1`, `false` nor `0`.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }

    /// The topic of a request that creates it; `invalid` is the error code for an invalid name.
    pub(super) fn topic(&self, invalid: &str) -> Result<TopicName, ApiError> {
        let name = self.get("topic").ok_or_else(|| ApiError::new(400, "MISSING_ARG_TOPIC"))?;
        TopicName::new(name).map_err(|_| ApiError::new(400, invalid))
    }

    /// The topic and the channel of a request.
    pub(super) fn channel(&self) -> Result<(TopicName, ChannelName), ApiError> {
        let topic = self.topic("INVALID_ARG_TOPIC")?;
        let name = self.get("channel").ok_or_else(|| ApiError::new(400, "MISSING_ARG_CHANNEL"))?;
        let channel = ChannelName::new(name).map_err(|_| ApiError::new(400, "INVALID_ARG_CHANNEL"))?;
        Ok((topic, channel))
    }
}

impl<S: Sync> FromRequestParts<S> for RequestQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// True if each `%` is followed by two hexadecimal digits.
fn has_sound_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_repeated_parameters_is_used_and_broken_escapes_are_refused() {
        let query = RequestQuery::parse("topic=a%23ephemeral&topic=b&x").unwrap();
        assert_eq!(query.get("topic"), Some("a#ephemeral"));
        assert_eq!((query.get("x"), query.get("y")), (Some(""), None));
        for wrong in ["a=%", "a=%2", "a=%zz", "a;b"] {
            assert!(RequestQuery::parse(wrong).is_err(), "{wrong}");
        }
    }
}
