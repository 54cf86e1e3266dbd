//! Compiling, and what a compiled program says of itself.

use gemma_xla::pjrt::{
    Client, CompileOptions, Error, ErrorCode, Executable, ExecuteOptions, NamedValue, OptionValue,
    Plugin,
};
use pjrt_sys::protos::xla;
use prost::Message;

use crate::support::{client, compile, doubling, first, module, on_both_plugins, plugin, send};

on_both_plugins! {
    the_compilers_words_come_through_in_one_line
    bytes_that_are_no_module_are_an_error
    an_unknown_compile_option_is_an_error
    a_debug_option_is_taken
    a_serialized_program_computes_the_same_when_it_is_loaded_again
    a_serialized_program_keeps_its_devices
    damaged_serialized_programs_are_errors
    programs_know_their_name_and_fingerprint
    the_optimized_program_is_hlo_again
    memory_is_counted_per_kind
    costs_are_counted_where_the_plugin_counts_them
}

fn the_compilers_words_come_through_in_one_line(plugin: &Plugin) {
    let client = client(plugin, 1);
    let mut proto = doubling(&[2]).to_proto();
    for instruction in &mut proto.computations[0].instructions {
        if instruction.opcode == "add" {
            instruction.opcode = "frobnicate".to_owned();
        }
    }
    let error = client
        .compile(&proto.encode_to_vec(), &CompileOptions::default())
        .unwrap_err();
    assert!(error.code().is_some(), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("frobnicate"), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

fn bytes_that_are_no_module_are_an_error(plugin: &Plugin) {
    let client = client(plugin, 1);
    for bytes in [&b"HloModule in_text"[..], b"", &[0xff; 64]] {
        let error = client
            .compile(bytes, &CompileOptions::default())
            .unwrap_err();
        assert!(error.code().is_some(), "{error:?}");
    }
}

fn with_override(name: &str, value: OptionValue) -> CompileOptions {
    CompileOptions {
        overrides: vec![(name.to_owned(), value)],
        ..CompileOptions::default()
    }
}

fn an_unknown_compile_option_is_an_error(plugin: &Plugin) {
    let client = client(plugin, 1);
    let options = with_override("xla_no_such_option", OptionValue::Bool(true));
    let error = client
        .compile(&doubling(&[2]).serialize(), &options)
        .unwrap_err();
    assert!(error.to_string().contains("xla_no_such_option"), "{error}");
}

fn a_debug_option_is_taken(plugin: &Plugin) {
    let client = client(plugin, 1);
    let options = with_override("xla_backend_optimization_level", OptionValue::Int(0));
    client
        .compile(&doubling(&[2]).serialize(), &options)
        .unwrap();
    let options = with_override(
        "xla_backend_optimization_level",
        OptionValue::String("much".to_owned()),
    );
    let refused = client.compile(&doubling(&[2]).serialize(), &options);
    assert!(refused.is_err());
}

/// Loads bytes that a test serialized.
fn deserialize(client: &Client, bytes: &[u8]) -> Result<Executable, Error> {
    // SAFETY: every test gives what `serialize` gave to it, or a part or a damaged copy of that,
    // which the checksum refuses.
    unsafe { client.deserialize(bytes) }
}

fn a_serialized_program_computes_the_same_when_it_is_loaded_again(plugin: &Plugin) {
    let bytes = {
        let client = client(plugin, 1);
        compile(&client, &doubling(&[2])).serialize().unwrap()
    };
    let client = client(plugin, 1);
    let program = deserialize(&client, &bytes).unwrap();
    assert_eq!(program.num_outputs().unwrap(), 1);
    let x = send(first(&client), &[1.0, 2.0], &[2]);
    let outputs = program
        .execute(&[vec![&x]], &ExecuteOptions::default())
        .unwrap();
    assert_eq!(outputs[0][0].to_vec_f32().unwrap(), [2.0, 4.0]);
}

fn a_serialized_program_keeps_its_devices(plugin: &Plugin) {
    let client = client(plugin, 4);
    let options = CompileOptions {
        device_assignment: Some(vec![2, 3]),
        ..CompileOptions::with_replicas(2)
    };
    let program = client
        .compile(&doubling(&[1]).serialize(), &options)
        .unwrap();
    let again = deserialize(&client, &program.serialize().unwrap()).unwrap();
    assert_eq!(again.addressable_devices(), program.addressable_devices());
    assert_eq!(again.addressable_devices().len(), 2);
}

fn damaged_serialized_programs_are_errors(plugin: &Plugin) {
    let client = client(plugin, 1);
    let bytes = compile(&client, &doubling(&[2])).serialize().unwrap();
    let refused = |bytes: &[u8]| {
        let error = deserialize(&client, bytes).unwrap_err();
        assert!(matches!(error, Error::SerializedProgram { .. }), "{error}");
    };
    for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        refused(&bytes[..length]);
    }
    // The plugin itself would end the process over many of these.
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        refused(&damaged);
    }
}

#[test]
fn a_program_of_another_plugin_is_an_error() {
    let one = client(&plugin("cpu"), 1);
    let other = client(&plugin("cpu-next"), 1);
    let bytes = compile(&one, &doubling(&[2])).serialize().unwrap();
    let error = deserialize(&other, &bytes).unwrap_err();
    assert!(error.to_string().contains("another build"), "{error}");
}

fn programs_know_their_name_and_fingerprint(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &doubling(&[2]));
    assert_eq!(program.name().unwrap(), "test_module");
    let same = compile(&client, &doubling(&[2]));
    let other = compile(&client, &doubling(&[3]));
    let fingerprint = program.fingerprint().unwrap();
    assert!(!fingerprint.is_empty());
    assert_eq!(same.fingerprint().unwrap(), fingerprint);
    assert_ne!(other.fingerprint().unwrap(), fingerprint);
}

fn the_optimized_program_is_hlo_again(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &doubling(&[2]))
        .optimized_program()
        .unwrap();
    assert_eq!(program.format, "hlo_with_config");
    // The message's first field is the module.
    #[derive(Clone, PartialEq, Message)]
    struct WithConfig {
        #[prost(message, optional, tag = "1")]
        module: Option<xla::HloModuleProto>,
    }
    let module = WithConfig::decode(program.code.as_slice())
        .unwrap()
        .module
        .expect("a module");
    assert_eq!(module.name, "test_module");
    assert!(!module.computations.is_empty());
}

fn memory_is_counted_per_kind(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(
        &client,
        &module(&[&[100], &[100]], |b, p| {
            let sum = b.add(p[0], p[1])?;
            b.reduce_sum(sum, &[0])
        }),
    );
    let stats = program.memory_stats().unwrap();
    assert_eq!(stats.arguments, 800);
    assert_eq!(stats.outputs, 4);
    assert_eq!(stats.aliased, 0);
    // Both plugins are newer than the field, which our bindings do not have.
    let peak = stats.peak.expect("both plugins say");
    assert!((804..100_000).contains(&peak), "{peak}");
}

fn costs_are_counted_where_the_plugin_counts_them(plugin: &Plugin) {
    let client = client(plugin, 1);
    let program = compile(&client, &doubling(&[10]));
    match program.cost_analysis() {
        Ok(costs) => {
            let flops = costs.iter().find(|(name, _)| name == "flops");
            assert_eq!(
                flops.map(|(_, value)| value),
                Some(&NamedValue::Float(10.0))
            );
        }
        Err(error) => {
            assert!(error.is_unimplemented(), "{error}");
            assert_eq!(error.code(), Some(ErrorCode::Unimplemented));
        }
    }
}
