//! A request's fields, taken one by one, each with an error that names it. An explicit null is an
//! absent field. A field that nobody took is refused.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::problem::Problem;
use crate::sampling::MAX_LOGPROBS;

/// The fields of a JSON object that are not taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    fields: Map<String, Value>,
    /// What stands before their names in errors.
    prefix: String,
}

type Result<T> = std::result::Result<T, Problem>;

impl Fields {
    /// Reads a request's body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self::new(fields)),
            Ok(_) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "the body is not a JSON object",
            )),
            Err(error) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("the body is not JSON: {error}"),
            )),
        }
    }

    pub fn new(fields: Map<String, Value>) -> Self {
        Self {
            fields,
            prefix: String::new(),
        }
    }

    /// The name that errors give a field.
    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// An error about a field.
    pub fn problem(&self, name: &str, message: impl std::fmt::Display) -> Problem {
        Problem::field(&self.path(name), message)
    }

    /// A field of any type.
    pub fn any(&mut self, name: &str) -> Option<Value> {
        // What is left keeps its order, which errors follow.
        let value = self.fields.shift_remove(name);
        value.filter(|value| !value.is_null())
    }

    fn typed<T>(
        &mut self,
        name: &str,
        expected: &str,
        take: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.any(name) {
            None => Ok(None),
            Some(value) => match take(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.problem(name, format_args!("expected {expected}"))),
            },
        }
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.typed(name, "a string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", |value| value.as_bool())
    }

    pub fn real(&mut self, name: &str) -> Result<Option<f32>> {
        self.typed(name, "a number", |value| {
            let value = value.as_f64()? as f32;
            value.is_finite().then_some(value)
        })
    }

    /// Takes numbers to where they belong; whether any of them is there.
    pub fn reals<const N: usize>(&mut self, wanted: [(&str, &mut f32); N]) -> Result<bool> {
        let mut any = false;
        for (name, to) in wanted {
            if let Some(value) = self.real(name)? {
                (*to, any) = (value, true);
            }
        }
        Ok(any)
    }

    /// How many of the most likely tokens are told.
    pub fn most_likely(&mut self, name: &str) -> Result<Option<usize>> {
        match self.size(name, 0)? {
            Some(count) if count > MAX_LOGPROBS => {
                Err(self.problem(name, format_args!("{count} is above {MAX_LOGPROBS}")))
            }
            count => Ok(count),
        }
    }

    /// A whole number of `least` or above, as a size.
    pub fn size(&mut self, name: &str, least: usize) -> Result<Option<usize>> {
        let expected = format!("a whole number of {least} or above");
        self.typed(name, &expected, |value| {
            let size = usize::try_from(whole(&value)?).ok()?;
            (size >= least).then_some(size)
        })
    }

    /// A number of the most likely tokens: 0 and below are all of them.
    pub fn top_k(&mut self, name: &str) -> Result<Option<usize>> {
        self.typed(name, "a whole number, where -1 and 0 mean all", |value| {
            let count = value.as_i64().or_else(|| whole(&value)?.try_into().ok())?;
            usize::try_from(count.max(0)).ok()
        })
    }

    /// A string, or a list of strings.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>> {
        let texts = self.typed(name, "a string or a list of strings", |value| match value {
            Value::String(text) => Some(vec![text]),
            Value::Array(list) => list
                .into_iter()
                .map(|text| match text {
                    Value::String(text) => Some(text),
                    _ => None,
                })
                .collect(),
            _ => None,
        })?;
        Ok(texts.unwrap_or_default())
    }

    /// A list of token ids.
    pub fn ids(&mut self, name: &str) -> Result<Vec<u32>> {
        let ids = self.typed(name, "a list of token ids", |value| {
            value.as_array()?.iter().map(id).collect()
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>> {
        self.typed(name, "a list", |value| match value {
            Value::Array(list) => Some(list),
            _ => None,
        })
    }

    /// An object, whose fields are taken in turn.
    pub fn object(&mut self, name: &str) -> Result<Option<Self>> {
        let prefix = format!("{}.", self.path(name));
        let object = self.typed(name, "an object", |value| match value {
            Value::Object(fields) => Some(fields),
            _ => None,
        })?;
        Ok(object.map(|fields| Self { fields, prefix }))
    }

    /// The names of what is left.
    pub fn names(&self) -> Vec<String> {
        self.fields.keys().cloned().collect()
    }

    /// Refuses a field unless it has a value that asks for nothing.
    pub fn refuse(&mut self, name: &str, asks_for_nothing: impl Fn(&Value) -> bool) -> Result<()> {
        match self.any(name) {
            Some(value) if !asks_for_nothing(&value) => {
                Err(self.problem(name, "it is not supported"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left, but for `ignored` fields, which do not change a reply.
    pub fn finish(mut self, ignored: &[&str]) -> Result<()> {
        self.fields
            .retain(|name, value| !value.is_null() && !ignored.contains(&name.as_str()));
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                Err(self.problem(&name, "it is not supported"))
            }
        }
    }
}

/// A whole number, which may be written as a float.
pub(super) fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let real = value.as_f64()?;
        // Above this, floats skip whole numbers.
        let is_exact = (0.0..=9_007_199_254_740_992.0).contains(&real) && real.fract() == 0.0;
        is_exact.then_some(real as u64)
    })
}

/// A token id.
pub(super) fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).expect("an object")
    }

    fn message<T: std::fmt::Debug>(outcome: Result<T>) -> String {
        outcome.expect_err("it is refused").message
    }

    #[test]
    fn a_null_is_an_absent_field_and_a_wrong_type_is_named() {
        let mut f = fields(r#"{"a": null, "b": "x", "c": 1.0, "d": [1, -2], "e": {"f": 3}}"#);
        assert_eq!(f.real("a"), Ok(None));
        assert_eq!(message(f.real("b")), "b: expected a number");
        assert_eq!(f.size("c", 1), Ok(Some(1)));
        assert_eq!(message(f.ids("d")), "d: expected a list of token ids");
        let mut inner = f.object("e").expect("an object").expect("it is there");
        let problem = inner.text("f").expect_err("a number");
        assert_eq!(problem.field.as_deref(), Some("e.f"));
    }

    #[test]
    fn what_nobody_took_is_refused_by_name() {
        assert_eq!(
            message(fields(r#"{"user": "u", "tools": [1]}"#).finish(&["user"])),
            "tools: it is not supported"
        );
        assert_eq!(fields(r#"{"tools": null}"#).finish(&[]), Ok(()));
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for body in ["", "[1]", "3", "{", "{\"a\": NaN}", &"[".repeat(100_000)] {
            let problem = Fields::parse(body.as_bytes()).expect_err("it is refused");
            assert_eq!(problem.status, StatusCode::BAD_REQUEST);
            assert!(problem.message.len() < 200);
        }
    }

    #[test]
    fn numbers_beyond_their_type_are_refused() {
        let mut f = fields(r#"{"a": 1e300, "b": 1e30, "c": -1, "d": 18446744073709551616}"#);
        assert!(f.real("a").is_err());
        for name in ["b", "c", "d"] {
            assert!(f.size(name, 0).is_err(), "{name}");
        }
    }
}
