//! What a module says of its entry: buffers that results take over, and layouts.

use hlo::{AliasKind, ArrayShape, Builder, ElementType, Module, Result};

use crate::host::{difference, f32s, s32s};
use crate::plugins::clients;
use crate::program::{compile, download, execute, upload};

/// Two parameters, and what becomes of them in the other order.
fn crossed() -> Result<Module> {
    let b = Builder::new("main");
    let x = b.parameter("x", ArrayShape::new(ElementType::F32, &[2]))?;
    let y = b.parameter("y", ArrayShape::scalar(ElementType::S32))?;
    let root = b.tuple(&[b.neg(y)?, b.add(x, x)?])?;
    Ok(Module::new("crossed", b.finish(root)?))
}

#[test]
fn an_aliased_parameter_is_consumed_and_another_is_not() {
    let mut module = crossed().expect("built");
    module
        .alias(&[1], 0, &[], AliasKind::Must)
        .expect("of one shape");
    for (plugin, client) in clients() {
        let executable = compile(plugin, client, &module, 1);
        let arguments = [vec![f32s(&[1.0, 2.0], &[2]), s32s(&[3], &[])]];
        let buffers = upload(&executable, &arguments);
        let results = execute(plugin, &executable, &buffers);
        assert_eq!(
            difference(&download(&results[0][0]), &s32s(&[-3], &[])),
            None,
            "{plugin}"
        );
        assert_eq!(
            difference(&download(&results[0][1]), &f32s(&[2.0, 4.0], &[2])),
            None,
            "{plugin}"
        );
        assert_eq!(buffers[0][0].is_deleted(), Ok(true), "{plugin}");
        assert_eq!(buffers[0][1].is_deleted(), Ok(false), "{plugin}");
    }
}

#[test]
fn a_result_that_is_no_tuple_may_take_over_a_buffer_too() {
    let b = Builder::new("main");
    let x = b
        .parameter("x", ArrayShape::new(ElementType::F32, &[2]))
        .expect("a parameter");
    let root = b.add(x, x).expect("of one shape");
    let mut module = Module::new("double", b.finish(root).expect("its own root"));
    module
        .alias(&[], 0, &[], AliasKind::May)
        .expect("of one shape");
    for (plugin, client) in clients() {
        let executable = compile(plugin, client, &module, 1);
        let buffers = upload(&executable, &[vec![f32s(&[1.0, 2.0], &[2])]]);
        let results = execute(plugin, &executable, &buffers);
        assert_eq!(
            difference(&download(&results[0][0]), &f32s(&[2.0, 4.0], &[2])),
            None,
            "{plugin}"
        );
        assert_eq!(buffers[0][0].is_deleted(), Ok(true), "{plugin}");
    }
}

#[test]
fn a_result_in_column_major_layout_reads_like_any_other() {
    let b = Builder::new("main");
    let x = b
        .parameter("x", ArrayShape::new(ElementType::F32, &[2, 3]))
        .expect("a parameter");
    let root = b.add(x, x).expect("of one shape");
    let mut module = Module::new("columns", b.finish(root).expect("its own root"));
    module
        .set_result_layout(&[], &[0, 1])
        .expect("a permutation");
    let argument = f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
    let expected = f32s(&[2.0, 4.0, 6.0, 8.0, 10.0, 12.0], &[2, 3]);
    for (plugin, client) in clients() {
        let executable = compile(plugin, client, &module, 1);
        let buffers = upload(&executable, &[vec![argument.clone()]]);
        let results = execute(plugin, &executable, &buffers);
        assert_eq!(
            difference(&download(&results[0][0]), &expected),
            None,
            "{plugin}"
        );
    }
}
