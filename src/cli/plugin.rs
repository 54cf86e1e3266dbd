//! `gemma-xla plugin`: installs, lists and tests PJRT plugins.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use super::Outcome;
use super::model::device_name;
use super::terminal::{self, Page};
use crate::pjrt::Provenance;
use crate::plugin::{
    self, InstallOptions, Located, Platform, Report, State, Step, TPU_COMPILE_VARIABLES, Verdict,
};

/// What to do with plugins.
#[derive(Subcommand)]
pub enum PluginCommand {
    /// Download a pinned plugin, check its hash and unpack it
    Install {
        /// cpu, tpu, cuda12 or cuda13
        name: String,
        /// Install from this wheel instead of downloading one
        #[arg(long, value_name = "FILE")]
        wheel: Option<PathBuf>,
    },
    /// Show the known plugins and where they are
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Load plugins, run a small program on each, and report the results
    Doctor {
        /// cpu, tpu, cuda or a plugin's path [default: every installed plugin]
        #[arg(value_parser = device_name)]
        devices: Vec<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Test the one device named in this process, and print its report as JSON
        #[arg(long, hide = true)]
        in_process: bool,
    },
}

/// Runs the command.
pub fn run(command: &PluginCommand) -> anyhow::Result<Outcome> {
    match command {
        PluginCommand::Install { name, wheel } => install(name, wheel.as_deref()),
        PluginCommand::List { json } => list(*json),
        PluginCommand::Doctor {
            devices,
            json: _,
            in_process: true,
        } => {
            let device = devices.first().context("--in-process needs a device")?;
            let report = plugin::doctor(&plugin::locate(device)?);
            terminal::print_json(&report)?;
            Ok(Outcome::Done)
        }
        PluginCommand::Doctor {
            devices,
            json,
            in_process: false,
        } => doctor(devices, *json),
    }
}

fn install(name: &str, wheel: Option<&Path>) -> anyhow::Result<Outcome> {
    if let "cuda" | "gpu" = name {
        bail!(
            "no plugin is called {name:?} (there are cpu, cpu-next, tpu, cuda12 and cuda13); run \
             `gemma-xla plugin install cuda13`, or cuda12 where nvidia-smi shows CUDA 12"
        );
    }
    let options = InstallOptions {
        wheel: wheel.map(Path::to_owned),
    };
    let installed = plugin::install(name, &options, &mut |step| match step {
        Step::Download(pin) => terminal::note(format_args!(
            "downloading {} {} with pip",
            pin.package, pin.version
        )),
        Step::Unpack(wheel) => {
            let name = wheel.file_name().unwrap_or(wheel.as_os_str());
            terminal::note(format_args!("checking and unpacking {}", name.display()));
        }
    })?;
    let how = if installed.already {
        "is installed already"
    } else {
        "installed"
    };
    let mut page = Page::default();
    writeln!(page, "{name} {how}: {}", installed.path.display())?;
    page.print()?;
    Ok(Outcome::Done)
}

/// The devices of `--device`, whose plugins are looked for.
const DEVICES: [&str; 3] = ["cpu", "tpu", "cuda"];

fn list(json: bool) -> anyhow::Result<Outcome> {
    let plugins = plugin::list()?;
    let used: Vec<(&str, Option<Located>)> = DEVICES
        .iter()
        .map(|device| (*device, plugin::locate(device).ok()))
        .collect();
    if json {
        let used: serde_json::Map<_, _> = used
            .into_iter()
            .map(|(device, located)| Ok((device.to_owned(), serde_json::to_value(located)?)))
            .collect::<anyhow::Result<_>>()?;
        terminal::print_json(&json!({ "plugins": plugins, "devices": used }))?;
        return Ok(Outcome::Done);
    }
    let mut page = Page::default();
    for listed in &plugins {
        let pin = listed.pin;
        let state = match listed.state {
            State::Installed => listed.path.display().to_string(),
            State::Damaged { .. } => {
                format!("damaged: gemma-xla plugin install {}", pin.name)
            }
            State::Missing => "not installed".to_owned(),
        };
        let package = format!("{} {}", pin.package, pin.version);
        writeln!(page, "{:<9} {package:<27} {state}", pin.name)?;
    }
    for (device, located) in used {
        let path = located.map_or_else(
            || "no plugin".to_owned(),
            |located| located.path().display().to_string(),
        );
        writeln!(page, "--device {device:<4} {path}")?;
    }
    page.print()?;
    Ok(Outcome::Done)
}

fn doctor(devices: &[String], json: bool) -> anyhow::Result<Outcome> {
    let mut worst = Outcome::Done;
    let mut reports = Vec::new();
    for (name, located) in patients(devices)? {
        let (path, report) = match located {
            Ok(located) => {
                let report = examine(&located)?;
                (Some(located.path().to_owned()), report)
            }
            Err(error) => {
                let mut report = Report::default();
                report.add("file", Verdict::Bad, error.to_string());
                (None, report)
            }
        };
        let verdict = report.verdict();
        // Devices that were not asked for by name may be absent.
        if verdict == Verdict::Bad || (verdict == Verdict::Absent && !devices.is_empty()) {
            worst = Outcome::Negative;
        }
        if json {
            reports.push(json!({
                "device": name, "path": path, "verdict": verdict, "checks": report.checks,
            }));
        } else {
            print_report(&name, path.as_deref(), &report)?;
        }
    }
    if json {
        terminal::print_json(&json!({ "plugins": reports }))?;
    }
    Ok(worst)
}

/// A plugin to test, or the reason that it cannot be.
type Patient = (String, plugin::Result<Located>);

/// The plugins to test: those of the devices named, which must exist, else all that are found.
fn patients(devices: &[String]) -> anyhow::Result<Vec<Patient>> {
    if !devices.is_empty() {
        return devices
            .iter()
            .map(|device| Ok((device.clone(), Ok(plugin::locate(device)?))))
            .collect();
    }
    let installed = plugin::list()?;
    let installed = installed
        .iter()
        .filter(|listed| listed.state != State::Missing)
        .map(|listed| listed.pin.name);
    let mut found: Vec<Patient> = Vec::new();
    for device in DEVICES.into_iter().chain(installed) {
        let located = plugin::locate(device);
        if matches!(located, Err(plugin::Error::NotInstalled { .. })) {
            continue;
        }
        // One file may be found by two names; one failure too.
        let known = found.iter().any(|(_, other)| match (other, &located) {
            (Ok(other), Ok(located)) => other.path() == located.path(),
            (Err(other), Err(error)) => other.to_string() == error.to_string(),
            _ => false,
        });
        if !known {
            found.push((device.to_owned(), located));
        }
    }
    if found.is_empty() {
        bail!("no plugin is installed: run `gemma-xla plugin install cpu`");
    }
    Ok(found)
}

fn print_report(name: &str, path: Option<&Path>, report: &Report) -> anyhow::Result<()> {
    let mut out = Page::default();
    match path {
        Some(path) => writeln!(out, "{name}: {}", path.display())?,
        None => writeln!(out, "{name}:")?,
    }
    for check in &report.checks {
        let mark = match check.verdict {
            Verdict::Good => "ok",
            Verdict::Absent => "--",
            Verdict::Bad => "FAILED",
        };
        writeln!(out, "  {mark:<6} {:<10} {}", check.what, check.found)?;
    }
    out.print()
}

/// A plugin that takes longer than this hangs. Loading one and compiling a small program takes
/// seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tests a plugin in a process of its own, where one that crashes, hangs or needs its own
/// environment does no harm.
fn examine(located: &Located) -> anyhow::Result<Report> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(["plugin", "doctor", "--in-process"]);
    command.arg(device_argument(located));
    if located.platform == Some(Platform::Tpu) && plugin::tpu_chips() == 0 {
        for (name, value) in TPU_COMPILE_VARIABLES {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting a process to try the plugin in")?;
    Ok(report_of(child, PATIENCE).unwrap_or_else(|failure| {
        let mut report = Report::default();
        report.add("process", Verdict::Bad, format!("{failure:#}"));
        report
    }))
}

/// The argument that selects the same plugin in the child: the pin's name, so that the plugin is
/// compared with it, else the path.
fn device_argument(located: &Located) -> PathBuf {
    match (located.pin, located.file.provenance()) {
        (Some(pin), Provenance::Folder) => pin.name.into(),
        _ if located.path().is_absolute() => located.path().to_owned(),
        // A bare file name in this folder would be taken for the name of a device.
        _ => Path::new(".").join(located.path()),
    }
}

/// Waits for the child, and reads the report that it prints.
fn report_of(mut child: Child, patience: Duration) -> anyhow::Result<Report> {
    // Both pipes are drained while waiting: a child that writes much would block otherwise.
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("no answer after {} s", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    if !status.success() {
        let last = stderr.lines().rfind(|line| !line.trim().is_empty());
        bail!(
            "ended with {status}: {}",
            last.unwrap_or("no message").trim()
        );
    }
    // A plugin may print too; the report is the last line.
    let last = stdout.lines().next_back().unwrap_or_default();
    serde_json::from_str(last).context("its report cannot be read")
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is all that there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
