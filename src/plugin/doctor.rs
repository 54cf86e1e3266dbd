//! Testing a plugin, step by step.

use std::time::Instant;

use hlo::{ArrayShape, Builder, DotDims, ElementType, Module};

use super::find::Located;
use super::hardware::{has_nvidia_gpu, tpu_chips};
use super::install::sha256;
use super::pins::Platform;
use crate::pjrt::{
    self, Buffer, Client, CompileOptions, ExecuteOptions, NamedValue, Plugin, Topology,
};

/// The outcome of the steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// The steps, in order. The first failure ends them, except for steps that do not depend on it.
    pub checks: Vec<Check>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Check {
    /// What was tested.
    pub what: String,
    /// The outcome.
    pub verdict: Verdict,
    /// What was found, in one line.
    pub found: String,
}

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It works.
    Good,
    /// This machine does not have the device; the plugin may work.
    Absent,
    /// It fails.
    Bad,
}

impl Report {
    /// The worst of the steps.
    pub fn verdict(&self) -> Verdict {
        let any = |wanted| self.checks.iter().any(|check| check.verdict == wanted);
        if any(Verdict::Bad) || self.checks.is_empty() {
            Verdict::Bad
        } else if any(Verdict::Absent) {
            Verdict::Absent
        } else {
            Verdict::Good
        }
    }

    /// Adds a step.
    pub fn add(&mut self, what: &str, verdict: Verdict, found: impl Into<String>) {
        self.checks.push(Check {
            what: what.to_owned(),
            verdict,
            found: found.into(),
        });
    }

    /// Adds a step with the outcome of a result, and returns its value.
    fn step<T, E: std::fmt::Display>(
        &mut self,
        what: &str,
        result: Result<(T, String), E>,
    ) -> Option<T> {
        match result {
            Ok((value, found)) => {
                self.add(what, Verdict::Good, found);
                Some(value)
            }
            Err(error) => {
                self.add(what, Verdict::Bad, error.to_string());
                None
            }
        }
    }
}

/// Tests a plugin in this process: its file, loading, its devices, and a small program that is
/// compiled, run and compared.
///
/// A plugin that is broken can take the process down with it; the command line therefore does this
/// in a child. For libtpu on a machine without a TPU,
/// [`TPU_COMPILE_VARIABLES`](super::TPU_COMPILE_VARIABLES) must be set before.
pub fn doctor(located: &Located) -> Report {
    let mut report = Report::default();
    let file = file(located);
    if report.step("file", file).is_none() {
        return report;
    }
    let Some(plugin) = report.step("load", load(located)) else {
        return report;
    };
    report.step("attributes", attributes(&plugin));
    match located.platform {
        Some(Platform::Tpu) if tpu_chips() == 0 => {
            report.add("devices", Verdict::Absent, "no TPU in this machine");
            report.step("compile", compile_for_tpu(&plugin));
            return report;
        }
        Some(Platform::Cuda) if !has_nvidia_gpu() => {
            report.add(
                "devices",
                Verdict::Absent,
                "no NVIDIA GPU in this machine, or no driver",
            );
            return report;
        }
        _ => {}
    }
    let Some(client) = report.step("devices", devices(&plugin)) else {
        return report;
    };
    report.step("run", run(&client));
    report
}

type Step<T> = Result<(T, String), Box<dyn std::error::Error>>;

fn file(located: &Located) -> Step<()> {
    let size = located.path().metadata()?.len();
    let Some(pin) = located.pin else {
        return Ok(((), format!("{size} bytes; no known build to compare with")));
    };
    let actual = sha256(located.path())?;
    if actual != pin.library_sha256 {
        return Err(format!(
            "sha256 is {actual}, not {}: run `gemma-xla plugin install {}`",
            pin.library_sha256, pin.name
        )
        .into());
    }
    let found = format!(
        "{size} bytes, sha256 as pinned for {} {}",
        pin.package, pin.version
    );
    Ok(((), found))
}

fn load(located: &Located) -> Step<Plugin> {
    crate::trusted::check(located.path())?;
    let start = Instant::now();
    let plugin = Plugin::open(&located.file, &[])?;
    let (major, minor) = plugin.api_version();
    let extensions = plugin.extensions().len();
    let found = format!(
        "PJRT API {major}.{minor}, {extensions} extensions ({:.1} s)",
        start.elapsed().as_secs_f64()
    );
    Ok((plugin, found))
}

fn attributes(plugin: &Plugin) -> Step<()> {
    let attributes = plugin.attributes()?;
    if attributes.is_empty() {
        return Ok(((), "none".to_owned()));
    }
    let listed: Vec<_> = attributes
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    Ok(((), listed.join(", ")))
}

fn devices(plugin: &Plugin) -> Step<Client> {
    let start = Instant::now();
    // CPU plugins make four devices by default; others refuse the option.
    let one = [("cpu_device_count".to_owned(), NamedValue::Int64(1))];
    let client = match Client::new(plugin, &one) {
        Ok(client) if client.platform_name() == "cpu" => client,
        _ => Client::new(plugin, &[])?,
    };
    let kinds: Vec<_> = client
        .addressable_devices()
        .iter()
        .map(|device| device.kind().to_owned())
        .collect();
    if kinds.is_empty() {
        return Err(format!("platform {}, and no device", client.platform_name()).into());
    }
    let mut found = format!(
        "platform {}, {} × {}",
        client.platform_name(),
        kinds.len(),
        kinds.first().map_or("", String::as_str)
    );
    if client.platform_version() != client.platform_name() {
        found += ", ";
        found += &client
            .platform_version()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
    }
    found += &format!(" ({:.1} s)", start.elapsed().as_secs_f64());
    Ok((client, found))
}

/// The side of the square matrices.
const SIDE: i64 = 16;

/// `x · x + 1`, of integers small enough that no device rounds them.
fn program(element_type: ElementType) -> Result<Vec<u8>, hlo::Error> {
    let b = Builder::new("main");
    let x = b.parameter("x", ArrayShape::new(element_type, &[SIDE, SIDE]))?;
    let dims = DotDims {
        lhs_contracting: vec![1],
        rhs_contracting: vec![0],
        ..DotDims::default()
    };
    let product = b.dot_general(x, x, dims, None, hlo::Precision::Highest)?;
    let ones = b.full(element_type, &[SIDE, SIDE], 1.0)?;
    let root = b.add(product, ones)?;
    Ok(Module::new("doctor", b.finish(root)?).serialize())
}

fn run(client: &Client) -> Step<()> {
    let device = client
        .addressable_devices()
        .first()
        .ok_or("no device to run on")?;
    let x: Vec<f32> = (0..SIDE * SIDE).map(|i| (i % 3) as f32).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let start = Instant::now();
    let executable = client.compile(&program(ElementType::F32)?, &CompileOptions::default())?;
    let compiled = start.elapsed();
    let start = Instant::now();
    let argument = Buffer::from_host(device, bytes.as_slice(), &[SIDE, SIDE], ElementType::F32)?;
    let outputs = executable.execute(&[vec![&argument]], &ExecuteOptions::default())?;
    let output = outputs
        .first()
        .and_then(|outputs| outputs.first())
        .ok_or("the program gave no result")?
        .to_vec_f32()?;
    let ran = start.elapsed();
    let expected = expected(&x);
    if output != expected {
        let wrong = output.iter().zip(&expected).filter(|(a, b)| a != b).count();
        return Err(format!("{wrong} of {} results are wrong", expected.len()).into());
    }
    let found = format!(
        "a small program compiled in {} ms, ran in {} ms, and gave the right result",
        compiled.as_millis(),
        ran.as_millis()
    );
    Ok(((), found))
}

/// The program's result, computed here.
fn expected(x: &[f32]) -> Vec<f32> {
    let side = SIDE as usize;
    x.chunks(side)
        .flat_map(|row| {
            (0..side).map(move |column| {
                let line = x.iter().skip(column).step_by(side);
                row.iter().zip(line).map(|(a, b)| a * b).sum::<f32>() + 1.0
            })
        })
        .collect()
}

fn compile_for_tpu(plugin: &Plugin) -> Step<()> {
    const TOPOLOGY: &str = "v5e:2x2";
    let start = Instant::now();
    let topology = Topology::create(plugin, TOPOLOGY, &[])?;
    let compiled = topology.compile(&program(ElementType::BF16)?, &CompileOptions::default())?;
    let stats: pjrt::CompiledMemoryStats = compiled.memory_stats()?;
    let kind = topology.devices().first().map_or("", |device| &device.kind);
    let found = format!(
        "a small program compiled for {TOPOLOGY} ({kind}) in {:.1} s, {} bytes of code",
        start.elapsed().as_secs_f64(),
        stats.generated_code
    );
    Ok(((), found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_as_good_as_its_worst_step() {
        let mut report = Report::default();
        assert_eq!(report.verdict(), Verdict::Bad, "nothing was tried");
        report.add("file", Verdict::Good, "");
        assert_eq!(report.verdict(), Verdict::Good);
        report.add("devices", Verdict::Absent, "");
        assert_eq!(report.verdict(), Verdict::Absent);
        report.add("compile", Verdict::Bad, "");
        assert_eq!(report.verdict(), Verdict::Bad);
    }

    #[test]
    fn the_expected_result_is_the_products_plus_one() {
        let mut identity = vec![0.0; (SIDE * SIDE) as usize];
        identity
            .iter_mut()
            .step_by(SIDE as usize + 1)
            .for_each(|x| *x = 1.0);
        let expected = expected(&identity);
        assert_eq!(expected[0], 2.0);
        assert_eq!(expected[1], 1.0);
    }
}
