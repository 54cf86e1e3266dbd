//! Templates against what Transformers makes of them, and templates that cannot be used.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// The instant at which the conversations were rendered.
fn fixed() -> jiff::Zoned {
    "2024-07-06T15:04:09[UTC]".parse().unwrap()
}

fn template(name: &str) -> ChatTemplate {
    let mut template = match name {
        "gemma" => ChatTemplate::built_in(BuiltIn::Gemma),
        "gemma3" => ChatTemplate::built_in(BuiltIn::Gemma3),
        "small" => ChatTemplate::from_dir(&data().join("gemma-small"), BuiltIn::Gemma).unwrap(),
        _ => {
            let file = data().join("chat/templates").join(format!("{name}.jinja"));
            let source = fs::read_to_string(&file).unwrap();
            ChatTemplate::new(file, &source, SpecialTokens::default()).unwrap()
        }
    };
    engine::set_clock(&mut template.environment, fixed);
    template
}

#[test]
fn conversations_are_rendered_as_transformers_does() {
    let file = data().join("chat/conversations.json");
    let fixture: Json = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(fixture["metadata"]["now"], "2024-07-06T15:04:09");
    let conversations = fixture["conversations"].as_array().unwrap();
    assert_eq!(conversations.len(), 200);
    let mut wrong = Vec::new();
    for conversation in conversations {
        let messages: Vec<Message> =
            serde_json::from_value(conversation["messages"].clone()).unwrap();
        let prompt = conversation["add_generation_prompt"].as_bool().unwrap();
        for (name, expected) in conversation["rendered"].as_object().unwrap() {
            let rendered = template(name).render(&messages, prompt);
            let same = match (&rendered, expected.get("text"), expected.get("error")) {
                (Ok(text), Some(expected), None) => text == expected,
                (Err(Error::Refused { words, .. }), None, Some(Json::String(expected))) => {
                    *words == error::one_line(expected)
                }
                (Err(Error::Failed { .. }), None, Some(Json::Null)) => true,
                _ => false,
            };
            if !same {
                wrong.push(format!(
                    "{name}: {messages:?}\n  {rendered:?}\n  {expected:?}"
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn render(source: &str) -> Result<String> {
    let messages = [Message::new("user", "Hi")];
    ChatTemplate::new(
        "model/chat_template.jinja",
        source,
        SpecialTokens::default(),
    )?
    .render(&messages, true)
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(1000) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'x' * 100000000000 }}",
        "{{ messages[0].content | indent(100000000000, true) }}",
        "{% for i in range(100000) %}{{ messages | tojson(indent=64) }}{{ 'x' * 10000 }}{% endfor %}",
    ] {
        let error = render(source).unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, Error::TooLong { .. }),
            "{source}: {message}"
        );
        assert!(message.starts_with("model/chat_template.jinja: the chat template was stopped"));
    }
}

/// Pieces of templates, for texts that are almost some.
const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    "+",
    " ",
    "\n",
    "'",
    "\"",
    "\\",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    ".",
    "|",
    "~",
    "=",
    "*",
    "ü",
    "🙂",
    "1",
    "99999999999",
    "-1",
    "generation",
    "endgeneration",
    "raw",
    "endraw",
    "for m in messages",
    "endfor",
    "if",
    "else",
    "endif",
    "set x =",
    "macro f(x)",
    "endmacro",
    "f(1)",
    "messages",
    "messages[0].content",
    "m",
    "x",
    "[::-1]",
    "range(9)",
    "|tojson",
    "|indent",
    "|trim",
    "(indent=3, sort_keys=true)",
    ".split()",
    ".splitlines(true)",
    ".strip('ü')",
    "strftime_now('%d')",
    "raise_exception('no')",
    "namespace()",
    "loop.index",
    "none",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_text_makes_the_engine_panic(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40),
        inside in any::<bool>(),
    ) {
        let text = pieces.concat();
        let source = if inside { format!("{{{{ {text} }}}}") } else { text };
        if let Err(error) = render(&source) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}

#[test]
fn a_template_may_be_used_by_several_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<ChatTemplate>();
}

#[test]
fn recursion_without_an_end_is_an_error() {
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    ] {
        let message = render(source).unwrap_err().to_string();
        assert!(
            message.starts_with("model/chat_template.jinja: the chat template"),
            "{message}"
        );
        assert!(!message.contains('\n'), "{message}");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(matches!(render(&deep), Err(Error::Syntax { .. })));
}

#[test]
fn refusals_keep_the_templates_words_on_one_line() {
    let error = render(
        "{% macro f() %}{{ raise_exception('no\n  such ' ~ 'role') }}{% endmacro %}{{ f() }}",
    )
    .unwrap_err();
    let expected =
        "model/chat_template.jinja: the chat template refuses the messages: no such role";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn failures_name_the_file_and_the_line() {
    for (source, expected) in [
        ("\n{% if %}", "not a chat template: syntax error: "),
        (
            "\n{{ nothing.role }}",
            "the chat template failed: undefined value: ",
        ),
        ("\n{{ messages.nothing() }}", "the chat template failed: "),
        (
            "\n{{ strftime_now('%') }}",
            "the chat template failed: invalid operation: strftime_now: \"%\": ",
        ),
        (
            "\n{{ messages | tojson(indent=1000000) }}",
            "the chat template failed: invalid operation: tojson: ",
        ),
        (
            "\n{{ messages | tojson(separators=',') }}",
            "the chat template failed: ",
        ),
    ] {
        let message = render(source).unwrap_err().to_string();
        assert!(
            message.starts_with("model/chat_template.jinja: "),
            "{message}"
        );
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("chat_template:2"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn a_conversation_without_messages_is_refused() {
    let error = template("gemma").render(&[], true).unwrap_err();
    assert_eq!(
        error.to_string(),
        "messages: a conversation needs at least one message"
    );
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn rendered(files: &[(&str, &str)]) -> Result<String> {
    let folder = folder(files);
    ChatTemplate::from_dir(folder.path(), BuiltIn::Gemma)?
        .render(&[Message::new("user", "Hi")], false)
}

#[test]
fn the_template_is_taken_from_where_transformers_takes_it() {
    let string = json!({"chat_template": "string{{ bos_token }}", "bos_token": {"content": "<s>"}});
    let list = json!({"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "list"}
    ]});
    let (string, list) = (string.to_string(), list.to_string());
    let plain = "<bos><start_of_turn>user\nHi<end_of_turn>\n";
    assert_eq!(rendered(&[]).unwrap(), plain);
    assert_eq!(rendered(&[(CONFIG_FILE, "{}")]).unwrap(), plain);
    assert_eq!(
        rendered(&[(CONFIG_FILE, r#"{"chat_template": null}"#)]).unwrap(),
        plain
    );
    assert_eq!(rendered(&[(CONFIG_FILE, &string)]).unwrap(), "string<s>");
    assert_eq!(rendered(&[(CONFIG_FILE, &list)]).unwrap(), "list");
    let file = (TEMPLATE_FILE, "\u{feff}file{{ bos_token }}");
    assert_eq!(
        rendered(&[(CONFIG_FILE, &string), file]).unwrap(),
        "file<s>"
    );
    assert_eq!(rendered(&[file]).unwrap(), "file<bos>");
}

#[test]
fn special_tokens_are_those_of_the_configuration() {
    let config = json!({
        "chat_template": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ boi_token }}|{{ additional_special_tokens | join(',') }}",
        "bos_token": null,
        "eos_token": "<end>",
        "extra_special_tokens": {"boi_token": "<image>"},
        "additional_special_tokens": ["<a>", {"content": "<b>"}],
    });
    let text = rendered(&[(CONFIG_FILE, &config.to_string())]).unwrap();
    assert_eq!(text, "|<end>|<pad>|<image>|<a>,<b>");
}

#[test]
fn files_that_hold_no_template_are_named() {
    for (content, expected) in [
        ("{", "tokenizer_config.json: not valid JSON"),
        ("[]", "tokenizer_config.json: the file: expected an object"),
        (
            r#"{"chat_template": 1}"#,
            "tokenizer_config.json: chat_template: expected a template",
        ),
        (
            r#"{"chat_template": [{"name": "rag"}]}"#,
            "tokenizer_config.json: chat_template: expected a template",
        ),
        (
            r#"{"chat_template": [{"name": "rag", "template": ""}]}"#,
            r#"tokenizer_config.json: chat_template: none is named "default" (named: rag)"#,
        ),
        (
            r#"{"chat_template": "{% if %}"}"#,
            "tokenizer_config.json: not a chat template: syntax error",
        ),
        (
            r#"{"bos_token": 2}"#,
            "tokenizer_config.json: bos_token: expected a token",
        ),
        (
            r#"{"extra_special_tokens": {"a": []}}"#,
            "extra_special_tokens.a: expected a token",
        ),
    ] {
        let message = rendered(&[(CONFIG_FILE, content)]).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_nothing_and_a_folder_are_errors() {
    for name in [CONFIG_FILE, TEMPLATE_FILE] {
        let linked = folder(&[]);
        std::os::unix::fs::symlink("nowhere", linked.path().join(name)).unwrap();
        let nested = folder(&[]);
        fs::create_dir(nested.path().join(name)).unwrap();
        for dir in [linked, nested] {
            let error = ChatTemplate::from_dir(dir.path(), BuiltIn::Gemma).unwrap_err();
            let expected = format!("cannot read {}", dir.path().join(name).display());
            assert_eq!(error.to_string(), expected);
        }
    }
}
