//! Where Python's strings differ from the engine's: what counts as whitespace, and as the end of a
//! line.

use minijinja::value::{Kwargs, Value, from_args};
use minijinja::{Error, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Python's `str.isspace`: Unicode's whitespace and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Where Python's `str.splitlines` ends a line.
fn ends_line(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e')
        || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Jinja's filter `trim`.
pub(super) fn trim(value: &Value, chars: Option<&str>) -> String {
    let text = value.to_string();
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
        None => text.trim_matches(is_space).to_owned(),
    }
}

/// Jinja's filter `indent`: every line but the first is moved by `width` spaces, empty ones only if
/// `blank` is set.
pub(super) fn indent(
    state: &State,
    value: &Value,
    width: Option<usize>,
    first: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.or(kwargs.get("width")?).unwrap_or(4);
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = kwargs.get::<Option<bool>>("blank")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    // The line end makes a last line of text that ends with one.
    let text = value.to_string() + "\n";
    let count = lines(&text, false).count();
    // The result may be much longer than what it is made of, so it is paid for before it is made.
    state.consume_fuel((count as u64).saturating_mul(width as u64) / 64)?;
    let margin = " ".repeat(width);
    let mut out = String::new();
    for (index, line) in lines(&text, false).enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let indented = match index {
            0 => first,
            _ => blank || !line.is_empty(),
        };
        if indented {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Methods of Python's types, for an engine that has none.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return unknown_method_callback(state, value, method, args);
    };
    let separator_given = args.first().is_some_and(|separator| !separator.is_none());
    match method {
        "strip" if !separator_given => Ok(text.trim_matches(is_space).into()),
        "lstrip" if !separator_given => Ok(text.trim_start_matches(is_space).into()),
        "rstrip" if !separator_given => Ok(text.trim_end_matches(is_space).into()),
        "split" if args.is_empty() => Ok(words(text).map(Value::from).collect()),
        "isspace" if args.is_empty() => Ok((!text.is_empty() && text.chars().all(is_space)).into()),
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            let keep_ends = keep_ends.unwrap_or(false);
            Ok(lines(text, keep_ends).map(Value::from).collect())
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

fn lines(text: &str, keep_ends: bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let content = rest.find(ends_line).unwrap_or(rest.len());
        let end = match &rest[content..] {
            tail if tail.starts_with("\r\n") => content + 2,
            tail => content + tail.chars().next().map_or(0, char::len_utf8),
        };
        let (line, tail) = rest.split_at(end);
        rest = tail;
        Some(if keep_ends { line } else { &line[..content] })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_python_ends_them() {
        let text = "a\r\nb\rc\n\nd\u{2028}e\x1cf\x0bg\u{85}";
        let expected = ["a", "b", "c", "", "d", "e", "f", "g"];
        assert_eq!(lines(text, false).collect::<Vec<_>>(), expected);
        assert_eq!(lines(text, true).collect::<String>(), text);
        assert_eq!(lines("", false).count(), 0);
    }

    #[test]
    fn whitespace_is_pythons() {
        let text = "\x1c\u{3000}\u{a0}a\x1fb\u{200b} \x1d";
        assert_eq!(trim(&Value::from(text), None), "a\x1fb\u{200b}");
        assert_eq!(words(text).collect::<Vec<_>>(), ["a", "b\u{200b}"]);
    }
}
