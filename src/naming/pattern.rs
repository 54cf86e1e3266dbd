//! Names with a layer's number in them.

/// Where a pattern has a layer's number.
pub(super) const NUMBER: &str = "{i}";

/// The layer's number that makes `pattern` into `name`: empty where the pattern has none, nothing
/// where it does not fit.
pub(crate) fn matched<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    let Some((before, after)) = pattern.split_once(NUMBER) else {
        return (pattern == name).then_some("");
    };
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    let canonical = number == "0" || !number.starts_with('0');
    let digits = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    (canonical && digits).then_some(number)
}

/// The name that a pattern is for a layer.
pub(crate) fn filled(pattern: &str, number: &str) -> String {
    pattern.replace(NUMBER, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_number_is_written_one_way_only() {
        assert_eq!(matched("a/{i}/b", "a/17/b"), Some("17"));
        assert_eq!(matched("a/b", "a/b"), Some(""));
        for name in ["a//b", "a/x/b", "a/01/b", "a/+1/b", "a/1/c", "a/b"] {
            assert_eq!(matched("a/{i}/b", name), None, "{name}");
        }
    }
}
