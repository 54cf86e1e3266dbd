//! Compiling for devices that are not there: libtpu's topologies, where libtpu is installed.

use std::process::Command;

use gemma_xla::pjrt::{CompileOptions, ErrorCode, Plugin, Topology};
use gemma_xla::plan;
use gemma_xla::plugin::{TPU_COMPILE_VARIABLES, locate};
use hlo::{BinaryOp, Computation, ElementType};

use crate::common;
use crate::support::{module, on_both_plugins};

on_both_plugins! {
    the_cpu_plugins_have_no_topologies
}

fn the_cpu_plugins_have_no_topologies(plugin: &Plugin) {
    let error = Topology::create(plugin, "v5e:2x2", &[]).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unimplemented), "{error}");
}

/// Set in the process that libtpu is loaded in.
const INNER: &str = "GEMMA_XLA_TEST_LIBTPU";

#[test]
fn libtpu_compiles_for_a_topology_without_a_tpu() {
    if !common::installed("tpu") {
        return;
    }
    let file = locate("tpu").unwrap().file;
    if std::env::var_os(INNER).is_some() {
        compile_for_tpus(&Plugin::open(&file, &[]).unwrap());
        return;
    }
    // What libtpu needs in its environment must be there when its process starts.
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "topology::libtpu_compiles_for_a_topology_without_a_tpu",
        ])
        .envs(TPU_COMPILE_VARIABLES)
        .env(INNER, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn compile_for_tpus(plugin: &Plugin) {
    for chip in plan::CHIPS {
        let slice = plan::TpuSlice::all().find(|slice| slice.chip.name == chip.name);
        let topology = Topology::create(plugin, slice.unwrap().name, &[]).unwrap();
        assert_eq!(topology.devices()[0].kind, chip.kind);
    }
    let topology = Topology::create(plugin, "v5e:2x2", &[]).unwrap();
    assert_eq!(topology.platform_name(), "tpu");
    assert!(!topology.platform_version().is_empty());
    assert_eq!(topology.devices().len(), 4);
    for device in topology.devices() {
        assert!(device.kind.contains("TPU"), "{device:?}");
        let coordinates = device.attributes.iter().find(|(name, _)| name == "coords");
        assert!(coordinates.is_some(), "{device:?}");
    }

    let sum = module(&[&[8, 128]], |b, p| {
        let add = Computation::binary(BinaryOp::Add, ElementType::F32)?;
        b.all_reduce(p[0], &add, &[vec![0, 1, 2, 3]])
    });
    let program = topology
        .compile(&sum.serialize(), &CompileOptions::with_replicas(4))
        .unwrap();
    assert_eq!(program.num_outputs().unwrap(), 1);
    let stats = program.memory_stats().unwrap();
    assert_eq!((stats.arguments, stats.outputs), (4096, 4096));
    assert!(stats.generated_code > 0);
    assert!(!program.serialize().unwrap().is_empty());
    assert!(!program.optimized_program().unwrap().code.is_empty());
    assert!(!program.cost_analysis().unwrap().is_empty());

    let error = Topology::create(plugin, "no such topology", &[]).unwrap_err();
    assert!(error.code().is_some(), "{error}");
}
