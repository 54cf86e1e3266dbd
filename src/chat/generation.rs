//! `{% generation %}`, the mark that templates put around what the model wrote.
//!
//! It is Transformers' own tag, used to mask a loss, and the engine has no tags but Jinja's. For a
//! prompt it is a block whose variables end with it, which is what `{% with %}` is.

use std::borrow::Cow;

/// The template with generation tags as ones that the engine knows. Comments, raw blocks and
/// strings stay as they are.
pub(super) fn accepted(template: &str) -> Cow<'_, str> {
    if !template.contains("generation") {
        return Cow::Borrowed(template);
    }
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (text, tag) = rest.split_at(open);
        out.push_str(text);
        rest = match tag.as_bytes().get(1) {
            Some(b'#') => copy(&mut out, tag, tag.find("#}").map_or(tag.len(), |at| at + 2)),
            Some(b'{') => copy(&mut out, tag, end_of(tag, "}}")),
            Some(b'%') => block(&mut out, tag),
            _ => copy(&mut out, tag, 1),
        };
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Copies the block tag that `tag` begins with, renamed where it is a generation tag; a raw block
/// is copied whole. Returns what follows.
fn block<'a>(out: &mut String, tag: &'a str) -> &'a str {
    let inner = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let name_at = tag.len() - inner.len();
    let name_len = inner
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(inner.len());
    let end = end_of(tag, "%}");
    let renamed = match &inner[..name_len] {
        "generation" => "with",
        "endgeneration" => "endwith",
        "raw" => return copy(out, tag, end_of_raw(tag, end)),
        _ => return copy(out, tag, end),
    };
    out.push_str(&tag[..name_at]);
    out.push_str(renamed);
    copy(out, &tag[name_at + name_len..], end - name_at - name_len)
}

/// Copies the first `len` bytes and returns the others.
fn copy<'a>(out: &mut String, text: &'a str, len: usize) -> &'a str {
    let (copied, rest) = text.split_at(len);
    out.push_str(copied);
    rest
}

/// Where the tag that `tag` begins with ends, behind its `close`: the first one outside of strings
/// and brackets; the end of the text where there is none, which the parser then reports.
fn end_of(tag: &str, close: &str) -> usize {
    let bytes = tag.as_bytes();
    let mut depth = 0_usize;
    let mut at = 2;
    while let Some(&byte) = bytes.get(at) {
        if depth == 0 && bytes[at..].starts_with(close.as_bytes()) {
            return at + close.len();
        }
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' | b'\'' => at = end_of_string(bytes, at),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The closing quote of the string that begins at `start`, or the text's last byte.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            _ if byte == bytes[start] => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where the `{% endraw %}` begins that ends the raw block of `tag`, whose own tag ends at `from`.
fn end_of_raw(tag: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(found) = tag[at..].find("{%") {
        at += found;
        let name = tag[at + 2..].trim_start_matches(['-', '+']).trim_start();
        if name.starts_with("endraw") {
            return at;
        }
        at += 2;
    }
    tag.len()
}

#[cfg(test)]
mod tests {
    use super::accepted;

    #[test]
    fn generation_tags_become_blocks_whatever_their_whitespace_control() {
        let template = "a{% generation %}b{%- endgeneration -%}c{%+generation+%}d{%endgeneration%}";
        let expected = "a{% with %}b{%- endwith -%}c{%+with+%}d{%endwith%}";
        assert_eq!(accepted(template), expected);
    }

    #[test]
    fn what_only_looks_like_one_stays() {
        for template in [
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            r#"{{ "\"{% generation %}" }}"#,
            "{% raw %}{% generation %}{% endgeneration %}{%- endraw -%}",
            "{% set generation = {'a': {'generation': 1}} %}",
            "{{ {'a': {'b': '{% generation %}'}} }}",
            "{% if add_generation_prompt %}{% generations %}",
            "{% generation_mark %} { generation }",
        ] {
            assert_eq!(accepted(template), template);
        }
        let behind = "{% raw %}{{{% endraw %}{% generation %}";
        assert_eq!(accepted(behind), "{% raw %}{{{% endraw %}{% with %}");
    }

    #[test]
    fn a_template_cut_short_anywhere_is_read_to_its_end() {
        let whole = "{# ü #}{{ 'generation ü' }}{% raw %}ü{% endraw %}{% generation %}ü{% endgeneration %}{{ {'a': \"\\\"\"} }}";
        for (end, _) in whole.char_indices() {
            accepted(&whole[..end]);
        }
    }
}
