//! Conversations: as JSON lines, piped, and in a terminal.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{copy_of, data, edit_json, fails_naming, gemma_xla};
use gemma_xla::chat::{BuiltIn, ChatTemplate, Message};
use gemma_xla::dtype::DType;
use gemma_xla::engine::{GenerateOptions, LoadOptions};
use gemma_xla::source::{Conversation, ConversationOptions, LoadedModel, Model};
use serde_json::{Value, json};
use tempfile::TempDir;

fn load() -> LoadedModel {
    let mut options = LoadOptions::default();
    options.dtype = Some(DType::F32);
    let model = Model::open(data("gemma-small")).expect("the checkpoint opens");
    model.load(&options).expect("the checkpoint loads")
}

/// What follows the rendered messages, generated as any other prompt.
fn reply(model: &LoadedModel, messages: &[Message], new_tokens: usize) -> Vec<u32> {
    let template = ChatTemplate::built_in(BuiltIn::Gemma);
    let text = template.render(messages, true).expect("it renders");
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let prompt = tokenizer.encode_rendered(&text).expect("encoded");
    let mut options = GenerateOptions::default();
    options.max_new_tokens = new_tokens;
    let generated = model.engine().generate(&[prompt], &options);
    generated.expect("it generates").remove(0).token_ids
}

#[test]
fn messages_are_rendered_with_the_models_template() {
    let model = load();
    let messages = [
        Message::new("user", "She was"),
        Message::new("assistant", "very well."),
        Message::new("user", "And he?"),
    ];
    let line = json!({"id": 5, "messages": messages}).to_string();
    let mut command = gemma_xla();
    command
        .args([
            "generate",
            "--chat",
            "--dtype",
            "f32",
            "--max-new-tokens",
            "7",
            "--input",
            "-",
        ])
        .arg("--model")
        .arg(data("gemma-small"))
        .write_stdin(line);
    let output = command.output().expect("the binary runs");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["token_ids"], json!(reply(&model, &messages, 7)));
    assert_eq!(found["id"], 5);
    // An argument is a user's message.
    let mut command = gemma_xla();
    command
        .args([
            "generate",
            "She was",
            "--chat",
            "--dtype",
            "f32",
            "--max-new-tokens",
            "7",
        ])
        .args(["--format", "jsonl", "--model"])
        .arg(data("gemma-small"));
    let output = command.output().expect("the binary runs");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["token_ids"], json!(reply(&model, &messages[..1], 7)));
}

#[test]
fn what_a_template_refuses_is_told_in_its_own_words() {
    let generate = |line: &str, arguments: &[&str]| {
        let mut command = gemma_xla();
        command.args(["generate", "--input", "-", "--model"]);
        command.arg(data("gemma-small")).args(arguments);
        command.write_stdin(line.to_owned());
        command
    };
    let system = "{\"messages\": [{\"role\": \"system\", \"content\": \"x\"}]}";
    fails_naming(
        &mut generate(system, &["--chat"]),
        &["line 1", "not of role system"],
    );
    let wizard = system.replace("system", "wizard");
    fails_naming(
        &mut generate(&wizard, &["--chat"]),
        &["line 1", "not of role wizard"],
    );
    // Without a template of its own, a model has Gemma's.
    let plain = copy_of("gemma-small");
    let file = plain.path().join("tokenizer_config.json");
    edit_json(&file, "chat_template", None);
    let twice = json!({"messages": [Message::new("user", "a"), Message::new("user", "b")]});
    let twice = twice.to_string();
    let mut command = gemma_xla();
    command.args(["generate", "--chat", "--input", "-", "--model"]);
    command.arg(plain.path()).write_stdin(twice.clone());
    fails_naming(
        &mut command,
        &["line 1", "Conversation roles must alternate"],
    );
    fails_naming(
        &mut generate(&twice, &[]),
        &["line 1", "\"messages\" need --chat"],
    );
    fails_naming(
        &mut generate("{\"messages\": []}", &["--chat"]),
        &["line 1"],
    );
    let endless = copy_of("gemma-small");
    fs::write(
        endless.path().join("chat_template.jinja"),
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    )
    .expect("written");
    let mut command = gemma_xla();
    command.args(["generate", "hi", "--chat", "--model"]);
    fails_naming(
        command.arg(endless.path()),
        &["chat_template.jinja", "steps"],
    );
}

#[test]
fn only_new_tokens_are_run_from_turn_to_turn_and_change_nothing() {
    let model = load();
    let template = ChatTemplate::built_in(BuiltIn::Gemma);
    let mut options = ConversationOptions::default();
    options.max_new_tokens = 9;
    let mut conversation = Conversation::new(&model, template, &options).expect("begun");
    let mut messages: Vec<Message> = Vec::new();
    let tokenizer = model.tokenizer().expect("a tokenizer");
    for (number, text) in ["She was", "And he?", "Both of them."]
        .into_iter()
        .enumerate()
    {
        messages.push(Message::new("user", text));
        let expected = reply(&model, &messages, 9);
        let mut told = String::new();
        let turn = conversation.say(text, |piece| {
            told.push_str(piece);
            std::ops::ControlFlow::Continue(())
        });
        let turn = turn.expect("a reply");
        assert_eq!(told, turn.text);
        let template = ChatTemplate::built_in(BuiltIn::Gemma);
        let prompt = template.render(&messages, true).expect("rendered");
        let prompt = tokenizer.encode_rendered(&prompt).expect("encoded");
        let text = tokenizer.decode_continuation(&prompt, &expected);
        assert_eq!(turn.text, text.expect("decoded"), "turn {number}");
        assert_eq!(turn.prompt_tokens, prompt.len());
        match number {
            0 => assert_eq!(turn.prefilled_tokens, prompt.len()),
            _ => assert!(turn.prefilled_tokens < prompt.len() / 2, "{turn:?}"),
        }
        messages.push(Message::new("assistant", turn.text));
        assert_eq!(conversation.messages(), messages);
    }
    // A reply that is broken off is what was told of it.
    let turn = conversation.say("Go on.", |_| std::ops::ControlFlow::Break(()));
    assert!(turn.expect("a reply").new_tokens <= 2);
    // What is refused leaves the conversation as it was.
    conversation.set_messages(vec![Message::new("system", "x")]);
    assert!(
        conversation
            .say("hi", |_| std::ops::ControlFlow::Continue(()))
            .is_err()
    );
    assert_eq!(conversation.messages().len(), 1);
}

#[test]
fn a_conversation_may_be_piped() {
    let folder = TempDir::new().expect("a folder");
    let saved = folder.path().join("saved.json");
    let input = format!(
        "She was\n/stats\nAnd \\\nhe?\n\"\"\"one\ntwo\"\"\"\n/save {}\n/reset\nShe was\n",
        saved.display()
    );
    let mut command = gemma_xla();
    command
        .args(["chat", "--dtype", "f32", "--max-new-tokens", "4", "--model"])
        .arg(data("gemma-small"))
        .write_stdin(input);
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].contains("4 new tokens"), "{text}");
    assert_eq!(lines.first(), lines.last(), "/reset forgets all");
    let saved: Value = serde_json::from_slice(&fs::read(&saved).expect("read")).expect("JSON");
    let messages = saved["messages"].as_array().expect("a list");
    let roles: Vec<&str> = messages.iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant"].repeat(3));
    assert_eq!(messages[2]["content"], "And \nhe?");
    assert_eq!(messages[4]["content"], "one\ntwo");
}

#[test]
fn bad_commands_and_messages_are_one_line() {
    for (input, arguments, part) in [
        ("/nothing\n", &[][..], "/nothing: no such command"),
        ("/load no/such.json\n", &[], "/load no/such.json"),
        ("/save\n", &[], "/save: expected the name of a file"),
        ("", &["--system", "x"], "--system: "),
        ("", &["--do-sample", "--top-p", "0"], "--top-p: 0"),
    ] {
        let mut command = gemma_xla();
        command.args(["chat", "--max-new-tokens", "4", "--model"]);
        command.arg(data("gemma-small")).args(arguments);
        command.write_stdin(input);
        fails_naming(&mut command, &[part]);
    }
    let model = copy_of("gemma-small");
    fs::remove_file(model.path().join("tokenizer.json")).expect("removed");
    let mut command = gemma_xla();
    command
        .args(["chat", "--model"])
        .arg(model.path())
        .write_stdin("hi\n");
    fails_naming(&mut command, &["tokenizer.json"]);
}

/// A program in a pseudo-terminal, with what it has written so far.
struct Terminal {
    controller: File,
    written: Arc<Mutex<String>>,
    child: std::process::Child,
}

impl Terminal {
    fn start(command: &mut Command) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&controller).expect("granted");
        unlockpt(&controller).expect("unlocked");
        let name = ptsname(&controller, Vec::new()).expect("named");
        let name = name.to_str().expect("a path").to_owned();
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(&name)
                .expect("opened")
        };
        command.stdin(open()).stdout(open()).stderr(open());
        let child = command.spawn().expect("the binary runs");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let controller = File::from(controller);
        let mut reader = controller.try_clone().expect("cloned");
        let written = Arc::new(Mutex::new(String::new()));
        let shared = written.clone();
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut part) {
                let text = String::from_utf8_lossy(&part[..count]).into_owned();
                shared.lock().expect("unlocked").push_str(&text);
            }
        });
        Self {
            controller,
            written,
            child,
        }
    }

    fn type_in(&mut self, text: &str) {
        self.controller.write_all(text.as_bytes()).expect("typed");
    }

    fn text(&self) -> String {
        self.written.lock().expect("unlocked").clone()
    }

    /// Waits until `holds` of what was written after the first `from` bytes.
    fn wait(&self, from: usize, what: &str, holds: impl Fn(&str) -> bool) {
        let began = Instant::now();
        while !holds(&self.text()[from..]) {
            let written = self.text();
            assert!(
                began.elapsed() < Duration::from_secs(240),
                "{what}: {written:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_conversation_in_a_terminal() {
    let model = copy_of("gemma-small");
    // A reply that goes on until it is ended.
    for name in ["config.json", "generation_config.json"] {
        edit_json(&model.path().join(name), "eos_token_id", Some(json!(1999)));
    }
    let folder = TempDir::new().expect("a folder");
    let saved = folder.path().join("saved.json");
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_gemma-xla")])
        .args([
            "chat",
            "--dtype",
            "f32",
            "--max-new-tokens",
            "400",
            "--model",
        ])
        .arg(model.path())
        .env("GEMMA_XLA_CACHE", "off")
        .env("TERM", "xterm");
    let mut terminal = Terminal::start(&mut command);
    terminal.wait(0, "the prompt", |text| text.contains("Ctrl-D ends"));

    // Text comes while the reply goes on; Ctrl-C ends the reply and not the program.
    let from = terminal.text().len();
    terminal.type_in("She was\n");
    terminal.wait(from, "text", |new| new.len() > 60);
    terminal.type_in("\u{3}");
    terminal.wait(from, "the next prompt", |new| {
        new[new.len().saturating_sub(12)..].contains("> ")
    });
    assert!(terminal.child.try_wait().expect("asked").is_none());
    let from = terminal.text().len();
    terminal.type_in("/stats\n");
    terminal.wait(from, "/stats", |new| new.contains("ended by stop"));
    // Ctrl-C while typing takes the line back.
    terminal.type_in("nonsense");
    std::thread::sleep(Duration::from_millis(200));
    terminal.type_in("\u{3}");
    std::thread::sleep(Duration::from_millis(200));
    let from = terminal.text().len();
    terminal.type_in(&format!("/save {}\n", saved.display()));
    terminal.wait(from, "/save", |new| new.contains("2 messages are in"));
    let content: Value = serde_json::from_slice(&fs::read(&saved).expect("read")).expect("JSON");
    assert_eq!(content["messages"][0]["content"], "She was");
    assert!(
        !content["messages"][1]["content"]
            .as_str()
            .expect("a text")
            .is_empty()
    );
    // Arrow up brings back the line before, and what is in a line can be changed.
    fs::remove_file(&saved).expect("removed");
    let from = terminal.text().len();
    terminal.type_in("\u{1b}[A\n");
    terminal.wait(from, "/save again", |new| new.contains("2 messages are in"));
    assert!(saved.is_file());
    let from = terminal.text().len();
    terminal.type_in("statz\u{7f}s\u{1}/\n");
    terminal.wait(from, "the changed line", |new| {
        new.contains("ended by stop")
    });
    // Two lines further back is the message.
    let from = terminal.text().len();
    terminal.type_in("\u{1b}[A\u{1b}[A\u{1b}[A\u{1b}[A\u{1b}[B");
    terminal.wait(from, "an earlier line", |new| new.contains("/stats"));
    terminal.type_in("\u{3}");
    std::thread::sleep(Duration::from_millis(200));
    // An error is told, and the conversation goes on.
    let from = terminal.text().len();
    terminal.type_in("/system be brief\nhello\n");
    terminal.wait(from, "the refusal", |new| {
        new.contains("not of role system")
    });
    terminal.type_in("/system\n");
    let from = terminal.text().len();
    terminal.type_in(&format!("/load {}\n", saved.display()));
    terminal.wait(from, "/load", |new| new.contains("2 messages from"));
    terminal.type_in("\u{4}");
    let began = Instant::now();
    while terminal.child.try_wait().expect("asked").is_none() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{}",
            terminal.text()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(terminal.child.wait().expect("it ended").code(), Some(0));
}
