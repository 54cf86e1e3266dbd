//! The plugins under test, and small programs for them.

use gemma_xla::pjrt::{Buffer, Client, CompileOptions, Device, Executable, NamedValue, Plugin};
use hlo::{Builder, Computation, ElementType, Module, Shape, Value};

/// Makes a module with the tests named, for each of the two plugins: each calls the function of
/// that name with the plugin.
macro_rules! on_both_plugins {
    ($($test:ident)*) => {
        mod xla_cpu_pjrt {
            $(#[test] fn $test() { super::$test(&$crate::support::plugin("cpu")); })*
        }
        mod lammps_jax_pjrt_cpu {
            $(#[test] fn $test() { super::$test(&$crate::support::plugin("cpu-next")); })*
        }
    };
}
pub(crate) use on_both_plugins;

/// The installed plugin of that name. Where there is none the test fails with the command that
/// installs it.
pub fn plugin(name: &str) -> Plugin {
    let located = match gemma_xla::plugin::locate(name) {
        Ok(located) => located,
        Err(error) => panic!("{error}"),
    };
    Plugin::open(&located.file, &[]).expect("the installed plugin loads")
}

/// A client with that many devices.
pub fn client(plugin: &Plugin, devices: i64) -> Client {
    let options = [("cpu_device_count".to_owned(), NamedValue::Int64(devices))];
    Client::new(plugin, &options).expect("a CPU client can be made")
}

pub fn first(client: &Client) -> &Device {
    &client.devices()[0]
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

/// A buffer of f32 on the device.
pub fn send(device: &Device, values: &[f32], dims: &[i64]) -> Buffer {
    Buffer::from_host(device, f32_bytes(values).as_slice(), dims, ElementType::F32)
        .expect("the buffer is sent")
}

/// A computation of f32 arrays of these dimensions.
pub fn computation(
    parameters: &[&[i64]],
    build: impl FnOnce(&Builder, &[Value]) -> hlo::Result<Value>,
) -> Computation {
    let b = Builder::new("main");
    let values: Vec<Value> = parameters
        .iter()
        .enumerate()
        .map(|(i, dims)| b.parameter(&format!("p{i}"), Shape::array(ElementType::F32, dims)))
        .collect::<hlo::Result<_>>()
        .expect("parameters can be declared");
    let root = build(&b, &values).expect("the operations fit");
    b.finish(root).expect("the root is the builder's")
}

/// A module of [`computation`].
pub fn module(
    parameters: &[&[i64]],
    build: impl FnOnce(&Builder, &[Value]) -> hlo::Result<Value>,
) -> Module {
    Module::new("test_module", computation(parameters, build))
}

/// `x + x` for an f32 array of these dimensions.
pub fn doubling(dims: &[i64]) -> Module {
    module(&[dims], |b, p| b.add(p[0], p[0]))
}

pub fn compile(client: &Client, module: &Module) -> Executable {
    client
        .compile(&module.serialize(), &CompileOptions::default())
        .expect("the module compiles")
}
