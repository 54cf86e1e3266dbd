//! Completions and man pages.

mod common;

use std::fs;
use std::process::Command;

use common::{fails_naming, gemma_xla};

fn completions(shell: &str) -> String {
    let output = gemma_xla()
        .args(["completions", shell])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_shell_gets_completions_with_commands_and_options() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = completions(shell);
        for word in ["gemma-xla", "generate", "max-new-tokens", "jsonl"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        assert!(
            !script.contains("read-bandwidth"),
            "{shell}: a hidden command"
        );
        assert!(
            !script.contains("\\u00"),
            "{shell}: the script is written as it is"
        );
    }
    let output = gemma_xla()
        .args(["completions", "tcl"])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("zsh"));
}

#[test]
fn bash_completes_commands_options_and_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("completions");
    fs::write(&script, completions("bash")).expect("written");
    let complete = |words: &[&str]| -> Vec<String> {
        let last = words[words.len() - 1];
        let before = words[words.len() - 2];
        let program = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; \
             function=$(complete -p gemma-xla | sed 's/.* -F \\([^ ]*\\) .*/\\1/'); \
             $function gemma-xla '{last}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            words
                .iter()
                .map(|word| format!("'{word}'"))
                .collect::<Vec<_>>()
                .join(" "),
            words.len() - 1,
        );
        let output = Command::new("bash")
            .args(["-c", &program])
            .output()
            .expect("bash runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    };
    assert_eq!(complete(&["gemma-xla", "gen"]), ["generate"]);
    assert_eq!(
        complete(&["gemma-xla", "generate", "--max-n"]),
        ["--max-new-tokens"]
    );
    let formats = complete(&["gemma-xla", "generate", "--format", ""]);
    assert_eq!(formats, ["text", "jsonl"]);
}

#[test]
fn there_is_a_man_page_for_each_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("share/man1");
    gemma_xla()
        .arg("man")
        .arg(&pages)
        .assert()
        .success()
        .stdout("");
    for (page, word) in [
        ("gemma-xla.1", "generate"),
        ("gemma-xla-generate.1", "max\\-new\\-tokens"),
        ("gemma-xla-plugin-install.1", "wheel"),
        ("gemma-xla-completions.1", "SHELL"),
    ] {
        let text = fs::read_to_string(pages.join(page)).expect(page);
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
        assert!(text.contains(word), "{page}: {text}");
    }
    assert!(
        !pages.join("gemma-xla-read-bandwidth.1").exists(),
        "hidden commands have none"
    );
    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    fails_naming(gemma_xla().arg("man").arg(&file), &["man pages", "file"]);
}
