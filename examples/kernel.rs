//! How fast the CPU kernel multiplies, beside plain reading by all cores and beside XLA's own dots.
//!
//! `cargo run --release --example kernel [SECONDS]`: each line is the median over so many seconds
//! (0.5 unless given) of products with weights that no cache holds. Reading is measured again
//! before each group, since other work on the machine changes it.

use std::time::{Duration, Instant};

use gemma_xla::bench::bandwidth::read_bandwidth;
use gemma_xla::bench::median;
use gemma_xla::kernel::{self, InstructionSet, MATMUL, ProductSizes, multiply};
use gemma_xla::pjrt::{Buffer, Client, CompileOptions, ExecuteOptions, HostBuffer, Plugin};
use gemma_xla::plugin;
use half::bf16;
use half::slice::HalfFloatSliceExt;
use hlo::{
    Builder, CustomCallOptions, Direction, DotDims, ElementType, Module, Precision, Shape, Value,
};
use rayon::prelude::*;

const SHAPES: [(usize, usize); 4] = [(2048, 16384), (16384, 2048), (2048, 2048), (2048, 256000)];
const ROWS: [usize; 5] = [1, 2, 4, 8, 16];
const TURNS: i64 = 10;

fn main() -> anyhow::Result<()> {
    let seconds = std::env::args()
        .nth(1)
        .map_or(Ok(0.5), |text| text.parse())?;
    let time = Duration::from_secs_f64(seconds);
    // 1.05 GB: the largest of the shapes; the others take turns in it.
    let weights: Vec<bf16> = (0..2048 * 256000_usize)
        .into_par_iter()
        .map(|i| bf16::from_bits(0x3c00 ^ (i.wrapping_mul(40503) as u16 & 0x80ff)))
        .collect();
    for (inputs, outputs) in SHAPES {
        let read = read_bandwidth(weights.reinterpret_cast(), time);
        println!("{inputs} -> {outputs}: reading {read:.1} GB/s");
        for instructions in InstructionSet::ALL
            .into_iter()
            .filter(|instructions| instructions.is_available())
        {
            for rows in ROWS {
                let sizes = ProductSizes {
                    rows,
                    inputs,
                    outputs,
                };
                let x: Vec<bf16> = weights[..rows * inputs].to_vec();
                let mut y = vec![0_f32; rows * outputs];
                let count = inputs * outputs;
                let speed = median_speed(&weights, count, time, |w| {
                    multiply(instructions, sizes, &x, w, &mut y)
                });
                println!(
                    "  {instructions:<11} {rows:>2} rows {speed:5.1} GB/s ({:.2} of reading)",
                    speed / read
                );
            }
        }
    }
    let located = plugin::find("cpu")?;
    let plugin = Plugin::open(&located.file, &kernel::custom_calls()?)?;
    let client = Client::new(&plugin, &[])?;
    anyhow::ensure!(
        kernel::are_available(&client),
        "the plugin takes no custom calls"
    );
    println!("in an HLO loop, 2048 -> 16384 -> 2048: ms a turn of 134 MB (bf16), 268 MB (f32)");
    for element_type in [ElementType::BF16, ElementType::F32] {
        for rows in [1, 2, 4, 8, 16, 64, 256] {
            let ours = turn(&client, element_type, rows, true)?;
            let theirs = turn(&client, element_type, rows, false)?;
            println!(
                "  {:<4} {rows:>3} rows: kernel {:6.2}, dots {:6.2}",
                element_type.name(),
                ours * 1e3,
                theirs * 1e3
            );
        }
    }
    Ok(())
}

/// The median of the bytes of weights per second, in GB, over successive stretches of `count`
/// weights.
fn median_speed(
    weights: &[bf16],
    count: usize,
    time: Duration,
    mut work: impl FnMut(&[bf16]),
) -> f64 {
    let start = Instant::now();
    let mut times = Vec::new();
    for stretch in weights.chunks_exact(count).cycle() {
        let begin = Instant::now();
        work(stretch);
        times.push(begin.elapsed().as_secs_f64());
        if times.len() > 2 && start.elapsed() > time {
            break;
        }
    }
    let time = median(&times).unwrap_or(f64::INFINITY);
    (count * size_of::<bf16>()) as f64 / time / 1e9
}

/// Seconds of a turn of a loop on the device in which each turn's activations go through two
/// matrices.
fn turn(
    client: &Client,
    element_type: ElementType,
    rows: i64,
    kernel: bool,
) -> anyhow::Result<f64> {
    let b = Builder::new("turns");
    let project = |b: &Builder, x: Value, w: Value, outputs: i64| {
        let y = if kernel {
            let result = Shape::array(ElementType::F32, &[rows, outputs]);
            b.custom_call(MATMUL, &[x, w], result, CustomCallOptions::default())?
        } else {
            let dims = DotDims {
                lhs_contracting: vec![1],
                rhs_contracting: vec![1],
                ..DotDims::default()
            };
            b.dot_general(x, w, dims, Some(ElementType::F32), Precision::Default)?
        };
        if element_type == ElementType::F32 {
            Ok(y)
        } else {
            b.convert(y, element_type)
        }
    };
    let [up, down] = [[16384, 2048], [2048, 16384]];
    let state = b.tuple(&[
        b.scalar(ElementType::S32, 0.0)?,
        b.parameter("x", Shape::array(element_type, &[rows, 2048]))?,
        b.parameter("up", Shape::array(element_type, &up))?,
        b.parameter("down", Shape::array(element_type, &down))?,
    ])?;
    let end = b.while_with(
        state,
        |b, state| {
            let turn = b.get_tuple_element(state, 0)?;
            b.compare(
                turn,
                b.scalar(ElementType::S32, TURNS as f64)?,
                Direction::Lt,
            )
        },
        |b, state| {
            let item = |index| b.get_tuple_element(state, index);
            let wide = project(b, item(1)?, item(2)?, 16384)?;
            let x = project(b, wide, item(3)?, 2048)?;
            let next = b.add(item(0)?, b.scalar(ElementType::S32, 1.0)?)?;
            b.tuple(&[next, b.tanh(x)?, item(2)?, item(3)?])
        },
    )?;
    let root = b.get_tuple_element(end, 1)?;
    let module = Module::new("turns", b.finish(root)?);
    let executable = client.compile(&module.serialize(), &CompileOptions::default())?;
    let device = &client.addressable_devices()[0];
    let upload = |dims: &[i64; 2]| {
        let mut host = HostBuffer::zeroed((dims[0] * dims[1]) as usize * element_type.size());
        host.par_chunks_mut(2).enumerate().for_each(|(i, bytes)| {
            bytes
                .copy_from_slice(&(0x3c00 ^ (i.wrapping_mul(40503) as u16 & 0x80ff)).to_le_bytes());
        });
        Buffer::from_host(device, host, dims, element_type)
    };
    let arguments = [upload(&[rows, 2048])?, upload(&up)?, upload(&down)?];
    let mut times = Vec::new();
    for _ in 0..6 {
        let begin = Instant::now();
        let results =
            executable.execute(&[arguments.iter().collect()], &ExecuteOptions::default())?;
        for result in results.iter().flatten() {
            result.ready()?.wait()?;
        }
        times.push(begin.elapsed().as_secs_f64() / TURNS as f64);
    }
    // The first may be slower than the rest: the pages of temporaries are new to it.
    times.remove(0);
    Ok(median(&times).unwrap_or(f64::NAN))
}
