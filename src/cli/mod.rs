//! The command line: one file a subcommand. Raw arguments are turned once into checked options.

mod bench;
mod convert;
mod flags;
mod generate;
mod input;
mod inspect;
mod model;
mod output;
mod parity;
mod plan;
mod plugin;
mod source;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs Google's Gemma from JAX/Flax weights through XLA, without Python.
#[derive(Parser)]
#[command(name = "gemma-xla", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue prompts, greedily, in batches
    Generate(generate::GenerateArgs),
    /// Compare with what Flax computed
    Parity(parity::ParityArgs),
    /// Measure how fast a model runs, beside what memory allows
    Bench(bench::BenchArgs),
    /// Print how fast this machine reads memory, in GB/s; bench runs it as a process of its own
    #[command(hide = true)]
    ReadBandwidth,
    /// Say whether a model fits on a slice of TPUs and what a step costs there, without a TPU
    Plan(plan::PlanArgs),
    /// Say what a checkpoint has, and whether it fits its configuration
    Inspect(inspect::InspectArgs),
    /// Write a checkpoint in another form
    Convert(convert::ConvertArgs),
    /// Install PJRT plugins and look at them
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All was done.
    Done,
    /// The command ran and its answer is no: a comparison beyond tolerance, a plugin that does not work.
    Negative,
    /// SIGINT; what was finished has been written.
    Interrupted,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Before anything else: only a process with one thread may change its environment.
    if let Err(error) = crate::pjrt::environment::set_defaults(&crate::pjrt::environment::QUIET) {
        eprintln!("warning: {error}");
    }
    // clap prints usage errors itself and exits with 2.
    let cli = Cli::parse();
    if let Command::Plan(args) = &cli.command {
        for variables in [crate::plugin::tpu_compile_environment(), args.environment()] {
            if let Err(error) = crate::pjrt::environment::set_defaults(variables) {
                eprintln!("warning: {error}");
            }
        }
    }
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("GEMMA_XLA_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let outcome = match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Parity(args) => parity::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::ReadBandwidth => bench::print_read_bandwidth(),
        Command::Plan(args) => plan::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Plugin(command) => plugin::run(&command),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {}", flags::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
