//! `gemma-xla completions` and `gemma-xla man`: what a package installs beside the binary.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome, terminal};

/// Prints the completions for a shell.
pub(super) fn completions(shell: Shell) -> anyhow::Result<Outcome> {
    let mut command = visible();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let mut script = String::from_utf8(script)?;
    if shell == Shell::Bash {
        // clap_complete 4.6 names the parts of its script in two ways where the program's name has
        // a hyphen, so that no part would be found.
        script = script.replace("gemma__subcmd__xla", "gemma__xla");
    }
    terminal::print(&script)?;
    Ok(Outcome::Done)
}

/// The command line without hidden subcommands, which a shell must not suggest.
fn visible() -> clap::Command {
    let whole = Cli::command();
    let shown = whole
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set());
    let command = clap::Command::new("gemma-xla").version(env!("CARGO_PKG_VERSION"));
    command.args(whole.get_arguments()).subcommands(shown)
}

/// Writes a man page for the program and for each subcommand into a folder, which is made when it
/// is missing.
pub(super) fn man_pages(folder: &Path) -> anyhow::Result<Outcome> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .with_context(|| format!("cannot write man pages to {}", folder.display()))?;
    Ok(Outcome::Done)
}
