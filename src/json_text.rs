//! JSON as Python writes it: perhaps after a byte-order mark, and with numbers that JSON does not
//! have.

use std::borrow::Cow;
use std::ops::Range;

use crate::input_file::without_byte_order_mark;

/// What Python's `json` writes for numbers that are not finite.
const NOT_FINITE: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];

/// The text without a byte-order mark, and with numbers that are not finite in quotation marks: a
/// key that is not read may have them, and where a number is read, the message shows what was found.
pub(crate) fn standard(text: &[u8]) -> Cow<'_, [u8]> {
    let text = without_byte_order_mark(text);
    let places = not_finite(text);
    if places.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut standard = Vec::with_capacity(text.len() + 2 * places.len());
    let mut end = 0;
    for place in places {
        standard.extend(&text[end..place.start]);
        standard.push(b'"');
        standard.extend(&text[place.clone()]);
        standard.push(b'"');
        end = place.end;
    }
    standard.extend(&text[end..]);
    Cow::Owned(standard)
}

/// The text with zeros in place of numbers that are not finite, so that everything else stays where
/// it is.
pub(crate) fn masked(text: &str) -> String {
    let mut masked = text.to_owned();
    for place in not_finite(text.as_bytes()) {
        let zeros = format!("{:.*}", place.len() - 2, 0.0);
        masked.replace_range(place, &zeros);
    }
    masked
}

/// Where numbers that are not finite are: outside strings.
fn not_finite(text: &[u8]) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut in_string = false;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            // What is escaped ends no string.
            b'\\' if in_string => at += 1,
            b'N' | b'I' | b'-' if !in_string => {
                let rest = &text[at..];
                if let Some(found) = NOT_FINITE.iter().find(|name| rest.starts_with(name)) {
                    places.push(at..at + found.len());
                    at += found.len();
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_become_strings() {
        let text =
            "\u{feff}{\"NaN\": NaN, \"a\\\"Infinity\": [-Infinity,Infinity, -1], \"I\": \"N\"}";
        let found = standard(text.as_bytes());
        let value: serde_json::Value = serde_json::from_slice(&found).unwrap();
        let expected = serde_json::json!({
            "NaN": "NaN", "a\"Infinity": ["-Infinity", "Infinity", -1], "I": "N",
        });
        assert_eq!(value, expected);
        assert!(matches!(standard(b"{\"a\": 1}"), Cow::Borrowed(_)));
        for broken in ["\"\\", "-", "NaNaNa", "\"Infinity"] {
            standard(broken.as_bytes());
        }
    }

    #[test]
    fn a_mask_keeps_every_place() {
        let text = "{\"a\": NaN, \"b\": -Infinity, \"c\": \"NaN\"}";
        let found = masked(text);
        assert_eq!(found.len(), text.len());
        let value: serde_json::Value = serde_json::from_str(&found).unwrap();
        assert_eq!(value, serde_json::json!({"a": 0.0, "b": 0.0, "c": "NaN"}));
    }
}
