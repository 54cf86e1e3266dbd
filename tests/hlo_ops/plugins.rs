//! The plugins that the programs run on.

use std::sync::OnceLock;

use gemma_xla::pjrt::{Client, CompileOptions, NamedValue, OptionValue, Plugin};
use gemma_xla::plugin::find;

/// The CPU devices of each client, for as many replicas.
pub const DEVICES: usize = 4;

/// A client of every plugin, with the plugin's name. Fails with the command that installs a plugin
/// that is missing.
pub fn clients() -> &'static [(&'static str, Client)] {
    static CLIENTS: OnceLock<Vec<(&'static str, Client)>> = OnceLock::new();
    CLIENTS.get_or_init(|| ["cpu", "cpu-next"].map(|name| (name, client(name))).into())
}

fn client(name: &str) -> Client {
    let located = find(name).unwrap_or_else(|error| panic!("{error}"));
    let devices = i64::try_from(DEVICES).expect("a small number");
    let options = [("cpu_device_count".to_owned(), NamedValue::Int64(devices))];
    Plugin::open(&located.file, &[])
        .and_then(|plugin| Client::new(&plugin, &options))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// How every program is compiled.
pub fn options(replicas: usize) -> CompileOptions {
    let mut options = CompileOptions::with_replicas(replicas);
    // Without this, the CPU compiler lets maximum and minimum lose a NaN.
    options.overrides.push((
        "xla_cpu_enable_fast_min_max".to_owned(),
        OptionValue::Bool(false),
    ));
    options
}

#[test]
fn the_plugins_are_of_two_versions_of_the_interface() {
    let versions: Vec<_> = clients()
        .iter()
        .map(|(_, client)| client.plugin().api_version())
        .collect();
    assert_ne!(versions[0], versions[1]);
}
