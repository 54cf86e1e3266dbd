//! What is read from modules that are as libtpu writes them, made by hand.

use pjrt_sys::protos::xla::{
    HloComputationProto, HloInstructionProto, HloModuleProto, LayoutProto, LiteralProto,
    OpMetadata, PrimitiveType, ShapeProto,
};

use super::data::OptimizedProgram;

fn array(element: PrimitiveType, dims: &[i64], layout: &[i64], space: i64) -> ShapeProto {
    ShapeProto {
        element_type: element.into(),
        dimensions: dims.to_vec(),
        layout: Some(Box::new(LayoutProto {
            minor_to_major: layout.to_vec(),
            memory_space: space,
            ..LayoutProto::default()
        })),
        ..ShapeProto::default()
    }
}

fn tuple(shapes: &[ShapeProto]) -> ShapeProto {
    ShapeProto {
        element_type: PrimitiveType::Tuple.into(),
        tuple_shapes: shapes.to_vec(),
        ..ShapeProto::default()
    }
}

fn number() -> ShapeProto {
    array(PrimitiveType::S32, &[], &[], 0)
}

fn cache(layout: &[i64], space: i64) -> ShapeProto {
    array(PrimitiveType::Bf16, &[8, 2, 64, 4], layout, space)
}

fn instruction(id: i64, opcode: &str, shape: ShapeProto, operands: &[i64]) -> HloInstructionProto {
    HloInstructionProto {
        id,
        name: format!("{opcode}.{id}"),
        opcode: opcode.into(),
        shape: Some(shape),
        operand_ids: operands.to_vec(),
        ..HloInstructionProto::default()
    }
}

fn constant(id: i64, value: i32) -> HloInstructionProto {
    HloInstructionProto {
        literal: Some(LiteralProto {
            s32s: vec![value],
            ..LiteralProto::default()
        }),
        ..instruction(id, "constant", number(), &[])
    }
}

fn element(id: i64, of: i64, index: i64) -> HloInstructionProto {
    HloInstructionProto {
        tuple_index: index,
        ..instruction(id, "get-tuple-element", number(), &[of])
    }
}

fn estimated(cycles: &str, instruction: HloInstructionProto) -> HloInstructionProto {
    HloInstructionProto {
        backend_config: format!(r#"{{"outer":{{"estimated_cycles":"{cycles}"}}}}"#).into_bytes(),
        ..instruction
    }
}

fn computation(id: i64, root: i64, instructions: Vec<HloInstructionProto>) -> HloComputationProto {
    HloComputationProto {
        id,
        root_id: root,
        instructions,
        ..HloComputationProto::default()
    }
}

/// A loop that counts from 2 by 3 up to a limit, which is the second element of its state. Its body
/// has an instruction of 7 cycles.
fn counting(limit: HloInstructionProto) -> OptimizedProgram {
    let state = || instruction(1, "parameter", tuple(&[number(), number()]), &[]);
    let body = computation(
        10,
        6,
        vec![
            state(),
            element(2, 1, 0),
            constant(3, 3),
            estimated("7", instruction(4, "add", number(), &[2, 3])),
            element(5, 1, 1),
            instruction(6, "tuple", tuple(&[number(), number()]), &[4, 5]),
        ],
    );
    let compare = HloInstructionProto {
        comparison_direction: "GT".into(),
        ..instruction(4, "compare", number(), &[3, 2])
    };
    let condition = computation(
        11,
        4,
        vec![state(), element(2, 1, 0), element(3, 1, 1), compare],
    );
    let looping = HloInstructionProto {
        called_computation_ids: vec![10, 11],
        ..instruction(23, "while", tuple(&[number(), number()]), &[22])
    };
    let entry = computation(
        12,
        23,
        vec![
            constant(20, 2),
            limit,
            instruction(22, "tuple", tuple(&[number(), number()]), &[20, 21]),
            looping,
        ],
    );
    read(vec![body, condition, entry], 12)
}

fn read(computations: Vec<HloComputationProto>, entry: i64) -> OptimizedProgram {
    let module = HloModuleProto {
        name: "test".into(),
        entry_computation_id: entry,
        computations,
        ..HloModuleProto::default()
    };
    OptimizedProgram::of(&module).expect("a sound module")
}

#[test]
fn a_loop_with_a_constant_limit_is_multiplied_out() {
    // 2, 5 and 8 are below 11.
    let program = counting(constant(21, 11));
    assert!(program.open_loops.is_empty());
    assert_eq!(program.once.cycles(), Some(3 * 7));
}

#[test]
fn a_loop_whose_limit_is_an_argument_is_kept_apart() {
    let program = counting(instruction(21, "parameter", number(), &[]));
    assert_eq!(program.once.cycles(), Some(0));
    let [open] = program.open_loops.as_slice() else {
        panic!("{:?}", program.open_loops);
    };
    assert_eq!(open.name, "while.23");
    assert_eq!(open.trip.cycles(), Some(7));
}

#[test]
fn the_greatest_number_is_no_estimate() {
    let work = |cycles| estimated(cycles, instruction(1, "fusion", number(), &[]));
    let program = read(
        vec![computation(1, 1, vec![work("9223372036854775807")])],
        1,
    );
    assert_eq!(program.once.cycles(), None);
    let reasons = program.once.unknown();
    assert!(reasons[0].contains("fusion.1"), "{reasons:?}");
    let program = read(vec![computation(1, 1, vec![work("90")])], 1);
    assert_eq!(program.once.cycles(), Some(90));
}

#[test]
fn a_sort_without_an_estimate_makes_the_sum_unknown() {
    let sort = estimated("0", instruction(1, "sort", number(), &[]));
    let program = read(vec![computation(1, 1, vec![sort])], 1);
    assert_eq!(program.once.cycles(), None);
}

/// A program with one cache, and an instruction that works on it.
fn on_cache(operand: ShapeProto, work: HloInstructionProto) -> OptimizedProgram {
    let result = cache(&[3, 2, 1, 0], 0);
    read(
        vec![computation(
            1,
            4,
            vec![
                instruction(1, "parameter", operand, &[]),
                work,
                instruction(4, "tuple", tuple(&[result]), &[2]),
            ],
        )],
        1,
    )
}

#[test]
fn copies_of_a_whole_cache_are_seen() {
    let tokens_outermost = cache(&[3, 1, 0, 2], 0);
    let copy = instruction(2, "copy", cache(&[3, 2, 1, 0], 0), &[1]);
    let program = on_cache(tokens_outermost, copy);
    let found = program.once.executed[1].cache_copy.as_ref();
    let layouts = found.map(|copy| (copy.from.as_str(), copy.to.as_str()));
    assert_eq!(layouts, Some(("{3,1,0,2}", "{3,2,1,0}")));
}

#[test]
fn a_fetch_to_the_core_is_no_copy_and_the_way_back_is_told_apart() {
    let memory = || cache(&[3, 2, 1, 0], 0);
    let core = || cache(&[3, 2, 1, 0], 1);
    let start = |to, from| instruction(2, "copy-start", tuple(&[to, from]), &[1]);
    let fetch = on_cache(memory(), start(core(), memory()));
    let fetch = &fetch.once.executed[1];
    assert_eq!((&fetch.cache_copy, &fetch.cache_write_back), (&None, &None));

    let back = on_cache(core(), start(memory(), core()));
    let back = &back.once.executed[1];
    assert_eq!(back.cache_copy, None);
    let layouts = back
        .cache_write_back
        .as_ref()
        .map(|copy| copy.from.as_str());
    assert_eq!(layouts, Some("{3,2,1,0}@core"));

    let other_layout = cache(&[3, 1, 0, 2], 0);
    let copied = on_cache(core(), start(other_layout, core()));
    let copied = &copied.once.executed[1];
    assert_eq!(copied.cache_write_back, None);
    let layouts = copied.cache_copy.as_ref().map(|copy| copy.to.as_str());
    assert_eq!(layouts, Some("{3,1,0,2}"));
}

#[test]
fn a_fusion_without_a_name_has_that_of_the_product_in_its_body() {
    let named = |name: &str, instruction| HloInstructionProto {
        metadata: Some(OpMetadata {
            op_name: name.into(),
            ..OpMetadata::default()
        }),
        ..instruction
    };
    let body = computation(
        1,
        3,
        vec![
            instruction(1, "parameter", number(), &[]),
            named(
                "layers/3/mlp",
                instruction(2, "convolution", number(), &[1]),
            ),
            named("layers/3/norm", instruction(3, "add", number(), &[2, 1])),
        ],
    );
    let fusion = HloInstructionProto {
        called_computation_ids: vec![1],
        ..instruction(5, "fusion", number(), &[])
    };
    let program = read(vec![body, computation(2, 5, vec![fusion])], 2);
    assert_eq!(program.once.executed[0].source, "layers/3/mlp");
}
