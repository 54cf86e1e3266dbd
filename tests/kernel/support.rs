//! What the tests share: clients whose programs can call the kernel, and how to run a program.

use gemma_xla::kernel;
use gemma_xla::pjrt::{
    Attributes, Buffer, CallResult, Client, CompileOptions, CustomCall, CustomCallHandler,
    ExecuteOptions, Operand, Plugin,
};
use gemma_xla::plugin;
use half::bf16;
use hlo::{Builder, CustomCallOptions, ElementType, Module, Shape, Value};

/// A client of each CPU plugin, whose programs can call the kernel and what panics.
pub fn clients() -> Vec<Client> {
    ["cpu", "cpu-next"]
        .map(|name| {
            let located = plugin::find(name).expect("the plugin is installed");
            let mut calls = kernel::custom_calls().expect("the switch is not set");
            calls.push(CustomCallHandler::of::<Panicking>());
            // The first test's load registers them; those of the others find them registered.
            let plugin = Plugin::open(&located.file, &calls).expect("the plugin loads");
            let client = Client::new(&plugin, &[]).expect("a client");
            assert!(kernel::are_available(&client), "{client:?}");
            assert!(plugin.has_custom_call(Panicking::TARGET), "{client:?}");
            client
        })
        .into()
}

pub fn numbers(count: usize) -> Vec<bf16> {
    (0..count)
        .map(|i| bf16::from_f32(((i * 7919 + 13) % 61) as f32 / 61.0 - 0.5))
        .collect()
}

pub fn upload(client: &Client, values: &[bf16], dims: &[i64]) -> Buffer {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Buffer::from_host(
        &client.addressable_devices()[0],
        bytes.as_slice(),
        dims,
        ElementType::BF16,
    )
    .expect("an upload")
}

pub fn call(b: &Builder, target: &str, operands: &[Value], result: Shape) -> Value {
    b.custom_call(target, operands, result, CustomCallOptions::default())
        .expect("a custom call")
}

/// Compiles and runs a program of one result; its error where it fails.
pub fn run(
    client: &Client,
    b: Builder,
    root: Value,
    arguments: &[&Buffer],
) -> Result<Buffer, String> {
    let name = b.name().to_owned();
    let module = Module::new(&name, b.finish(root).expect("a computation"));
    let executable = client
        .compile(&module.serialize(), &CompileOptions::default())
        .map_err(|error| error.to_string())?;
    let mut results = executable
        .execute(&[arguments.to_vec()], &ExecuteOptions::default())
        .map_err(|error| error.to_string())?;
    let result = results.pop().and_then(|mut r| r.pop()).expect("a result");
    let ready = result.ready().and_then(|event| event.wait());
    ready.map(|()| result).map_err(|error| error.to_string())
}

/// Panics.
pub struct Panicking;

impl CustomCall for Panicking {
    const TARGET: &'static str = "gemma_xla_test_panicking";

    fn call(_: &Attributes<'_>, _: &[Operand<'_>], _: &mut [CallResult<'_>]) -> Result<(), String> {
        panic!("a custom call that panics")
    }
}
