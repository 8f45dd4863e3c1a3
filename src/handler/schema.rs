//! Validation of messages: a JSON object with fields like `id:int,tag:string`.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// The schema of `--expect message`: the feed message of the real-time pipeline.
const MESSAGE: &str = "id:int,shortcode:string,destination:string,tag:string";

/// The fields that a JSON object must have. Other fields are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    fields: Vec<SchemaField>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SchemaField {
    name: String,
    kind: FieldType,
    optional: bool,
}

/// The types of JSON, and 64-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldType {
    Int,
    Number,
    String,
    Bool,
    Object,
    Array,
    Any,
}

/// The error of text that is not a [`Schema`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid field {field:?} in {schema:?}: use message, or NAME:TYPE with commas between (types: int, number, string, bool, object, array, any; NAME?:TYPE may be missing)"
)]
pub struct InvalidSchema {
    schema: String,
    field: String,
}

impl Schema {
    /// Checks a body; fails with the first mismatch, in one line.
    pub fn check(&self, body: &[u8]) -> Result<(), String> {
        let fields = match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(fields)) => fields,
            Ok(other) => return Err(format!("{} where an object is expected", FieldType::name_of(&other))),
            Err(error) => return Err(format!("malformed JSON: {error}")),
        };
        for SchemaField { name, kind, optional } in &self.fields {
            match fields.get(name) {
                Some(value) if kind.fits(value) => {}
                Some(value) => return Err(format!("field {name:?} is {}, expected {kind}", FieldType::name_of(value))),
                None if *optional => {}
                None => return Err(format!("field {name:?} is missing, expected {kind}")),
            }
        }
        Ok(())
    }
}

impl FromStr for Schema {
    type Err = InvalidSchema;

    fn from_str(text: &str) -> Result<Self, InvalidSchema> {
        let fields = if text == "message" { MESSAGE } else { text };
        let field = |field: &str| {
            SchemaField::parse(field.trim())
                .ok_or_else(|| InvalidSchema { schema: text.to_owned(), field: field.to_owned() })
        };
        Ok(Self { fields: fields.split(',').map(field).collect::<Result<_, _>>()? })
    }
}

impl SchemaField {
    fn parse(text: &str) -> Option<Self> {
        let (name, kind) = text.split_once(':')?;
        let (name, optional) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
        let kind = FieldType::ALL.into_iter().find(|known| known.name() == kind)?;
        (!name.is_empty()).then(|| Self { name: name.to_owned(), kind, optional })
    }
}

impl FieldType {
    const ALL: [Self; 7] = [Self::Int, Self::Number, Self::String, Self::Bool, Self::Object, Self::Array, Self::Any];

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Int => value.is_i64(),
            Self::Number => value.is_number(),
            Self::String => value.is_string(),
            Self::Bool => value.is_boolean(),
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::Any => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Number => "number",
            Self::String => "string",
            Self::Bool => "bool",
            Self::Object => "object",
            Self::Array => "array",
            Self::Any => "any",
        }
    }

    fn name_of(value: &Value) -> &'static str {
        Self::ALL.into_iter().find(|kind| *kind != Self::Any && kind.fits(value)).map_or("null", Self::name)
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: &str, body: &str) -> Result<(), String> {
        schema.parse::<Schema>().unwrap().check(body.as_bytes())
    }

    #[test]
    fn a_message_has_its_four_fields() {
        let good = r#"{"id":1,"shortcode":"44123","destination":"15551234567","tag":"x","more":null}"#;
        assert_eq!(check("message", good), Ok(()));
        for (body, why) in [
            (r#"{"id":1"#, "malformed JSON: EOF while parsing an object at line 1 column 7"),
            ("", "malformed JSON: EOF while parsing a value at line 1 column 0"),
            ("[1]", "array where an object is expected"),
            (&good.replace("1,", "1.5,"), r#"field "id" is number, expected int"#),
            (&good.replace("1,", "9223372036854775808,"), r#"field "id" is number, expected int"#),
            (&good.replace("\"44123\"", "44123"), r#"field "shortcode" is int, expected string"#),
            (&good.replace("tag", "gat"), r#"field "tag" is missing, expected string"#),
        ] {
            assert_eq!(check("message", body), Err(why.to_owned()), "{body}");
        }
        assert!(check("message", "\u{feff}{}").is_err());
        assert!(check("message", &"[".repeat(100_000)).is_err(), "no depth overflows the stack");
    }

    #[test]
    fn schemas_of_all_types_are_checked() {
        let schema = "n:number, b:bool,o:object,a:array,x:any,maybe?:int";
        assert_eq!(check(schema, r#"{"n":1.5,"b":true,"o":{},"a":[],"x":null}"#), Ok(()));
        let wrong = check(schema, r#"{"n":1,"b":true,"o":{},"a":[],"x":0,"maybe":"1"}"#);
        assert_eq!(wrong, Err(r#"field "maybe" is string, expected int"#.to_owned()));
    }

    #[test]
    fn invalid_schemas_name_the_field() {
        for schema in ["", "id", "id:", ":int", "id:integer", "id:int,", "?:int"] {
            let error = schema.parse::<Schema>().unwrap_err().to_string();
            assert!(error.starts_with("invalid field ") && !error.contains('\n'), "{error}");
        }
    }
}
