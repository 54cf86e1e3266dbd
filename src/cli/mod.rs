//! The command line: one file per subcommand. Raw arguments become checked options once.

mod advice;
mod bench;
mod chat;
mod convert;
mod flags;
mod generate;
mod input;
mod inspect;
mod model;
mod numerics;
mod output;
mod parity;
mod plan;
mod plugin;
mod sampling;
mod score;
#[cfg(feature = "serve")]
mod serve;
mod shell;
mod signals;
mod source;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use terminal::Verbosity;

/// Runs Google's Gemma from JAX/Flax weights through XLA, without Python.
#[derive(Parser)]
#[command(name = "gemma-xla", version, about)]
struct Cli {
    #[command(flatten)]
    verbosity: VerbosityArgs,
    #[command(subcommand)]
    command: Command,
}

/// How much is said on standard error.
#[derive(clap::Args)]
struct VerbosityArgs {
    /// Print no progress and no timings
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print each step; GEMMA_XLA_LOG selects messages more finely
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

impl VerbosityArgs {
    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Continue prompts, in batches
    Generate(generate::GenerateArgs),
    /// Talk with a model in the terminal
    Chat(chat::ChatArgs),
    /// Answer HTTP requests, with OpenAI's and Text Generation Inference's interfaces
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    /// Tell how likely given texts are, or the perplexity of one
    Score(score::ScoreArgs),
    /// Compare with what Flax computed
    Parity(parity::ParityArgs),
    /// Measure how fast a model runs, compared with the memory's bandwidth
    Bench(bench::BenchArgs),
    /// Print how fast this machine reads memory, in GB/s; bench runs it as a process of its own
    #[command(hide = true)]
    ReadBandwidth,
    /// Tell whether a model fits on a slice of TPUs and what a step costs there, without a TPU
    Plan(plan::PlanArgs),
    /// Show what a checkpoint contains and whether it fits its configuration
    Inspect(inspect::InspectArgs),
    /// Write a checkpoint in another format
    Convert(convert::ConvertArgs),
    /// Install, list and test PJRT plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: std::path::PathBuf,
    },
}

impl Command {
    /// The form of lines on standard error.
    fn lines(&self) -> terminal::Lines {
        match self {
            #[cfg(feature = "serve")]
            Command::Serve(args) => args.lines(),
            _ => terminal::Lines::Text,
        }
    }

    fn uses_a_plugin(&self) -> bool {
        #[cfg(feature = "serve")]
        if matches!(self, Command::Serve(_)) {
            return true;
        }
        matches!(
            self,
            Command::Generate(_)
                | Command::Chat(_)
                | Command::Score(_)
                | Command::Parity(_)
                | Command::Bench(_)
                | Command::Plan(_)
                | Command::Plugin(plugin::PluginCommand::Doctor { .. })
        )
    }
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything was done.
    Done,
    /// The command ran and its answer is no: a comparison beyond tolerance, a plugin that does not
    /// work.
    Negative,
    /// A signal; the finished results have been written.
    Interrupted,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    quiet_caught_panics();
    // Before anything else: only a process with one thread may change its environment.
    if let Err(error) = crate::pjrt::environment::set_defaults(&crate::pjrt::environment::QUIET) {
        terminal::warn(error);
    }
    // clap prints usage errors itself and exits with 2.
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        let arguments = std::env::args_os().skip(1);
        let arguments: Vec<String> = arguments
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        advice::advise(error, &arguments).exit()
    });
    let verbosity = cli.verbosity.verbosity();
    if let Command::Plan(args) = &cli.command {
        let quiet = args.environment(verbosity);
        for variables in [crate::plugin::tpu_compile_environment(), quiet] {
            if let Err(error) = crate::pjrt::environment::set_defaults(variables) {
                terminal::warn(error);
            }
        }
    }
    terminal::set_up(verbosity, cli.command.lines());
    if let Err(error) = signals::watch() {
        terminal::warn(flags::one_line(&error));
    }
    if cli.command.uses_a_plugin() {
        warn_of_xla_flags();
    }
    let outcome = match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Parity(args) => parity::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::ReadBandwidth => bench::print_read_bandwidth(),
        Command::Plan(args) => plan::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Plugin(command) => plugin::run(&command),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { folder } => shell::man_pages(&folder),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            let message = flags::one_line(&error);
            let advice = source::advice_on_cached(&message).unwrap_or_default();
            terminal::error(format_args!("{message}{advice}"));
            ExitCode::FAILURE
        }
    }
}

/// XLA ends the process at a flag that it does not know, with a line that does not say whose it is.
fn warn_of_xla_flags() {
    let flags = std::env::var_os("XLA_FLAGS").unwrap_or_default();
    if !flags.is_empty() {
        terminal::note(format_args!(
            "XLA_FLAGS is {}; where XLA does not know one of them, it ends this process",
            flags.display()
        ));
    }
}

/// A malformed tokenizer may make a library panic. That becomes the one error line of this process,
/// and the hook keeps quiet.
fn quiet_caught_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !crate::tokenizer::is_catching_panics() {
            report(panic);
        }
    }));
}
