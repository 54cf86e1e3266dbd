//! What the tests share: clients whose programs can call the kernel, and how to run a program.

use std::sync::LazyLock;

use gemma_xla::kernel;
use gemma_xla::pjrt::{
    Attributes, Buffer, CallResult, Client, CompileOptions, CustomCall, ExecuteOptions, Operand,
    Plugin,
};
use gemma_xla::plugin;
use half::bf16;
use hlo::{Builder, CustomCallOptions, ElementType, Module, Shape, Value};

/// A client of each CPU plugin, whose programs can call the kernel and what panics.
pub fn clients() -> Vec<Client> {
    // Nothing may be compiled before all is registered, and tests run at once.
    static REGISTERED: LazyLock<Vec<Plugin>> = LazyLock::new(|| {
        let plugins = ["cpu", "cpu-next"].map(|name| {
            let path = plugin::find(name).expect("the plugin is installed");
            let plugin = Plugin::load(&path).expect("the plugin loads");
            let client = plugin.client(&[]).expect("a client");
            assert_eq!(kernel::register(&client), Ok(true), "{client:?}");
            for _ in 0..2 {
                // Twice: to register again changes nothing.
                let registered = plugin.register_custom_call::<Panicking>(client.platform_name());
                assert_eq!(registered, Ok(()));
            }
            plugin
        });
        plugins.into()
    });
    let client = |plugin: &Plugin| plugin.client(&[]).expect("a client");
    REGISTERED.iter().map(client).collect()
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
    client
        .buffer_from_host(
            bytes.as_slice(),
            dims,
            ElementType::BF16,
            &client.addressable_devices()[0],
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
