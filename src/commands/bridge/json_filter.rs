//! Selection of messages by fields of JSON, as nsq_to_nsq has it, pure.

use bytes::Bytes;
use serde_json::{Map, Value};

/// Which messages are passed on, and which of their fields.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonFilter {
    /// A field that must be there, and the value that it must have, if any.
    pub(super) required: Option<(String, Option<String>)>,
    /// The fields that are passed on; all if empty.
    pub(super) kept: Vec<String>,
}

/// A message's fate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FilteredBody {
    /// This body is passed on.
    Pass(Bytes),
    /// The message lacks the field, or the field has another value.
    Skip,
    /// The body is no JSON object.
    NoObject,
}

impl JsonFilter {
    /// Returns true if every message is passed on unchanged.
    pub(super) fn is_empty(&self) -> bool {
        self.required.is_none() && self.kept.is_empty()
    }

    /// Looks at a body.
    pub(super) fn apply(&self, body: &Bytes) -> FilteredBody {
        if self.is_empty() {
            return FilteredBody::Pass(body.clone());
        }
        let Ok(mut object) = serde_json::from_slice::<Map<String, Value>>(body) else { return FilteredBody::NoObject };
        if let Some((field, wanted)) = &self.required {
            let fits =
                object.get(field).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| is_value(value, wanted)));
            if !fits {
                return FilteredBody::Skip;
            }
        }
        if self.kept.is_empty() {
            return FilteredBody::Pass(body.clone());
        }
        object.retain(|field, _| self.kept.iter().any(|kept| kept == field));
        FilteredBody::Pass(serde_json::to_vec(&object).expect("it was JSON").into())
    }
}

/// Compares a text with its characters, anything else with its JSON.
fn is_value(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        other => serde_json::to_string(other).is_ok_and(|json| json == wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(required: Option<(&str, Option<&str>)>, kept: &[&str], body: &str) -> FilteredBody {
        let required = required.map(|(field, value)| (field.to_owned(), value.map(str::to_owned)));
        let filter = JsonFilter { required, kept: kept.iter().map(|field| (*field).to_owned()).collect() };
        filter.apply(&Bytes::from(body.to_owned()))
    }

    #[test]
    fn messages_are_selected_by_a_field_and_reduced_to_fields() {
        let pass = |body: &str| FilteredBody::Pass(Bytes::from(body.to_owned()));
        let body = r#"{"a": "x",  "b": 7, "c": null}"#;
        assert_eq!(filtered(None, &[], "no JSON"), pass("no JSON"));
        assert_eq!(filtered(Some(("c", None)), &[], body), pass(body));
        assert_eq!(filtered(Some(("a", Some("x"))), &[], body), pass(body));
        assert_eq!(filtered(Some(("b", Some("7"))), &["a", "d"], body), pass(r#"{"a":"x"}"#));
        assert_eq!(filtered(Some(("a", Some("y"))), &[], body), FilteredBody::Skip);
        assert_eq!(filtered(Some(("d", None)), &[], body), FilteredBody::Skip);
        assert_eq!(filtered(Some(("a", None)), &[], "[1]"), FilteredBody::NoObject);
        assert_eq!(filtered(None, &["z"], body), pass("{}"));
    }
}
