//! What the protobuf holds, and which borders a module accepts.

use std::collections::HashSet;

use hlo::{
    AliasKind, ArrayShape, BinaryOp, Builder, Computation, Direction, ElementType, Error, Literal,
    Module, Result, Shape,
};
use pjrt_sys::protos::xla::HloModuleProto;
use prost::Message;

use ElementType::{F32, S32};

fn looping() -> Result<Module> {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::array(F32, &[4]))?;
    let total = b.reduce_sum(x, &[0])?;
    let limit = b.reduce_sum(b.mul(x, x)?, &[0])?;
    let state = b.tuple(&[total, limit])?;
    let root = b.while_with(
        state,
        |b, state| {
            let parts = b.untuple(state)?;
            b.compare(parts[0], parts[1], Direction::Lt)
        },
        |b, state| {
            let parts = b.untuple(state)?;
            b.tuple(&[b.add(parts[0], parts[0])?, parts[1]])
        },
    )?;
    Ok(Module::new("looping", b.finish(root)?))
}

#[test]
fn ids_are_small_and_unique_and_refer_to_what_stands_before() -> Result<()> {
    let proto = looping()?.to_proto();
    let (mut instructions, mut computations) = (HashSet::new(), HashSet::new());
    let mut names = HashSet::new();
    let mut next = 1;
    for computation in &proto.computations {
        let first = next;
        for instruction in &computation.instructions {
            assert_eq!(instruction.id, next, "ids count up");
            next += 1;
            assert!(names.insert(instruction.name.clone()));
            for operand in &instruction.operand_ids {
                assert!((first..instruction.id).contains(operand));
            }
            for called in &instruction.called_computation_ids {
                assert!(computations.contains(called));
            }
            instructions.insert(instruction.id);
        }
        assert!(instructions.contains(&computation.root_id));
        assert!(computations.insert(computation.id));
    }
    let entry = proto.computations.last().map(|c| (c.id, c.name.clone()));
    assert_eq!(
        entry,
        Some((proto.entry_computation_id, proto.entry_computation_name))
    );
    Ok(())
}

#[test]
fn a_computation_called_often_is_emitted_once() -> Result<()> {
    let proto = looping()?.to_proto();
    let names: Vec<&str> = proto.computations.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["add_f32", "while_condition", "while_body", "main"]);
    Ok(())
}

#[test]
fn different_computations_of_one_name_get_names_of_their_own() -> Result<()> {
    let b = Builder::new("f");
    let x = b.parameter("x", Shape::scalar(F32))?;
    let shape = [Shape::scalar(F32)];
    let up = b.computation("f", &shape, |b, p| b.ceil(p[0]))?;
    let down = b.computation("f", &shape, |b, p| b.floor(p[0]))?;
    let root = b.add(b.call(&up, &[x])?, b.call(&down, &[x])?)?;
    let proto = Module::new("m", b.finish(root)?).to_proto();
    let names: HashSet<String> = proto.computations.into_iter().map(|c| c.name).collect();
    assert_eq!(names.len(), 3);
    Ok(())
}

#[test]
fn a_while_refers_to_its_body_before_its_condition() -> Result<()> {
    let proto = looping()?.to_proto();
    let id = |name: &str| {
        let found = proto.computations.iter().find(|c| c.name == name);
        found.map(|c| c.id)
    };
    let instructions = proto.computations.iter().flat_map(|c| &c.instructions);
    let loops: Vec<_> = instructions.filter(|i| i.opcode == "while").collect();
    assert_eq!(loops.len(), 1);
    let called: Vec<Option<i64>> = loops[0]
        .called_computation_ids
        .iter()
        .map(|&id| Some(id))
        .collect();
    assert_eq!(called, [id("while_body"), id("while_condition")]);
    Ok(())
}

#[test]
fn serialized_modules_read_back_as_they_were() -> Result<()> {
    let module = looping()?;
    let read = HloModuleProto::decode(module.serialize().as_slice());
    assert_eq!(read, Ok(module.to_proto()));
    Ok(())
}

#[test]
fn every_element_type_has_its_literal_field() -> Result<()> {
    for element_type in ElementType::ALL {
        let proto = Literal::scalar_of(element_type, 1.0)?.to_proto();
        let elements = [
            proto.preds.len(),
            proto.s8s.len(),
            proto.u8s.len(),
            proto.s16s.len() / 2,
            proto.u16s.len() / 2,
            proto.f16s.len() / 2,
            proto.bf16s.len() / 2,
            proto.s32s.len(),
            proto.u32s.len(),
            proto.s64s.len(),
            proto.u64s.len(),
            proto.f32s.len(),
            proto.f64s.len(),
        ];
        assert_eq!(elements.iter().sum::<usize>(), 1, "{element_type}");
        let shape = proto.shape.map(|shape| shape.element_type);
        assert_eq!(shape, Some(element_type.to_proto().into()));
    }
    Ok(())
}

/// A module of `(x + x, n)` with the parameters `x: f32[2,3]` and `n: s32[]`.
fn pair() -> Result<Module> {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::array(F32, &[2, 3]))?;
    let n = b.parameter("n", Shape::scalar(S32))?;
    let root = b.tuple(&[b.add(x, x)?, n])?;
    Ok(Module::new("pair", b.finish(root)?))
}

#[test]
fn aliases_are_checked_against_shapes() -> Result<()> {
    let mut module = pair()?;
    let refused = |module: &mut Module, output: &[i64], parameter, index: &[i64]| {
        let result = module.alias(output, parameter, index, AliasKind::Must);
        let line = result.expect_err("accepted").to_string();
        assert!(line.starts_with("module 'pair': "), "{line}");
        line
    };
    assert!(refused(&mut module, &[1], 0, &[]).contains("s32[] and f32[2,3]{1,0}"));
    assert!(refused(&mut module, &[], 0, &[]).contains("no array"));
    assert!(refused(&mut module, &[2], 0, &[]).contains("no array"));
    assert!(refused(&mut module, &[0], 2, &[]).contains("no array"));
    assert!(refused(&mut module, &[0], -1, &[]).contains("no array"));
    assert!(refused(&mut module, &[0], 0, &[0]).contains("no array"));
    module.alias(&[0], 0, &[], AliasKind::Must)?;
    assert!(refused(&mut module, &[0], 0, &[]).contains("already"));
    let entries = module
        .to_proto()
        .input_output_alias
        .map(|a| a.entries.len());
    assert_eq!(entries, Some(1));
    Ok(())
}

#[test]
fn an_aliased_output_takes_the_layout_of_its_parameter() -> Result<()> {
    let mut module = pair()?;
    module.set_parameter_layout(0, &[], &[0, 1])?;
    module.alias(&[0], 0, &[], AliasKind::May)?;
    let column_major = ArrayShape::new(F32, &[2, 3]).with_layout(&[0, 1]);
    assert_eq!(module.result_shape().leaf(&[0]), Some(&column_major));
    assert!(matches!(
        module.set_result_layout(&[0], &[1, 0]),
        Err(Error::Module { .. })
    ));
    assert!(matches!(
        module.set_parameter_layout(0, &[], &[1, 0]),
        Err(Error::Module { .. })
    ));
    Ok(())
}

#[test]
fn layouts_are_permutations() -> Result<()> {
    let mut module = pair()?;
    for layout in [&[0, 0][..], &[1][..], &[0, 2][..], &[0, 1, 2][..]] {
        let result = module.set_result_layout(&[0], layout);
        assert!(matches!(result, Err(Error::InvalidShape { .. })));
    }
    assert!(module.set_result_layout(&[2], &[]).is_err());
    assert_eq!(module, pair()?);
    Ok(())
}

#[test]
fn instructions_are_in_row_major_whatever_the_parameters_layout() -> Result<()> {
    let b = Builder::new("main");
    let x = b.parameter("x", ArrayShape::new(F32, &[2, 3]).with_layout(&[0, 1]))?;
    let sum = b.add(x, x)?;
    assert_eq!(b.shape(sum)?, Shape::array(F32, &[2, 3]));
    let computation = b.finish(x)?;
    assert_eq!(computation.result_shape(), &Shape::array(F32, &[2, 3]));
    Ok(())
}

#[test]
fn sizes_saturate_instead_of_overflowing() {
    let shape = |dims: &[i64]| ArrayShape::new(F32, dims);
    assert_eq!(shape(&[2, 3]).element_count(), 6);
    assert_eq!(shape(&[2, 3]).byte_size(), 24);
    assert_eq!(shape(&[]).element_count(), 1);
    assert_eq!(shape(&[0, i64::MAX, i64::MAX]).element_count(), 0);
    assert_eq!(shape(&[i64::MAX, i64::MAX]).element_count(), usize::MAX);
    assert_eq!(shape(&[i64::MAX]).byte_size(), usize::MAX);
    assert_eq!(shape(&[-1]).element_count(), 0);
}

#[test]
fn signatures_read_as_one_line() -> Result<()> {
    let max = Computation::binary(BinaryOp::Max, F32)?;
    assert_eq!(max.signature(), "maximum_f32(f32[], f32[]) -> f32[]");
    assert!(Computation::binary(BinaryOp::Shl, F32).is_err());
    Ok(())
}
