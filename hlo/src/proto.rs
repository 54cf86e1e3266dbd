//! Modules as XLA's protobuf. Which fields an operation uses is what XLA's reader of `hlo.proto`
//! expects.

use pjrt_sys::protos::xla::{
    CustomCallApiVersion, DotDimensionNumbers, GatherDimensionNumbers, HloComputationProto,
    HloInputOutputAliasProto, HloInstructionProto, HloModuleProto, Kind, OpMetadata,
    OutputOperandAliasing, PaddingConfig, PrecisionConfig, ProgramShapeProto, ReplicaGroup,
    ScatterDimensionNumbers, SourceTarget, Window, WindowDimension,
    hlo_input_output_alias_proto::AliasEntryProto, hlo_instruction_proto::SliceDimensions,
    padding_config::PaddingConfigDimension, precision_config,
};

use crate::instruction::Op;
use crate::numbering::{Numbered, NumberedInstruction, number, sanitized};
use crate::ops::{CustomCallApi, CustomCallOptions, Precision, WindowDim};
use crate::{AliasKind, Computation, Module, Shape};

pub(crate) fn module(module: &Module) -> HloModuleProto {
    let numbered = number(module);
    let (entry_name, entry_id) = numbered
        .last()
        .map_or((String::new(), 0), |entry| (entry.name.clone(), entry.id));
    let mut border = program_shape(module.entry());
    border.parameters = module.parameters().iter().map(Shape::to_proto).collect();
    border.result = Some(module.result_shape().to_proto());
    HloModuleProto {
        name: sanitized(module.name()),
        entry_computation_name: entry_name,
        entry_computation_id: entry_id,
        computations: numbered
            .iter()
            .map(|one| computation(one, &numbered))
            .collect(),
        host_program_shape: Some(border),
        input_output_alias: Some(aliases(module)),
        ..HloModuleProto::default()
    }
}

fn aliases(module: &Module) -> HloInputOutputAliasProto {
    let entries = module.aliases().iter().map(|alias| AliasEntryProto {
        output_shape_index: alias.output_index.clone(),
        parameter_number: alias.parameter,
        parameter_shape_index: alias.parameter_index.clone(),
        kind: match alias.kind {
            AliasKind::May => Kind::MayAlias,
            AliasKind::Must => Kind::MustAlias,
        }
        .into(),
    });
    HloInputOutputAliasProto {
        entries: entries.collect(),
    }
}

fn program_shape(computation: &Computation) -> ProgramShapeProto {
    let names = computation
        .instructions()
        .iter()
        .filter_map(|instruction| match &instruction.op {
            Op::Parameter { name, .. } => Some(name.clone()),
            _ => None,
        });
    ProgramShapeProto {
        parameters: computation
            .parameters()
            .iter()
            .map(Shape::to_proto)
            .collect(),
        result: Some(computation.result_shape().to_proto()),
        parameter_names: names.collect(),
    }
}

fn computation(one: &Numbered<'_>, all: &[Numbered<'_>]) -> HloComputationProto {
    let root = one.instructions.get(one.computation.root());
    HloComputationProto {
        name: one.name.clone(),
        id: one.id,
        root_id: root.map_or(0, |root| root.id),
        program_shape: Some(program_shape(one.computation)),
        instructions: one
            .instructions
            .iter()
            .map(|i| instruction(i, one, all))
            .collect(),
        ..HloComputationProto::default()
    }
}

fn instruction(
    numbered: &NumberedInstruction<'_>,
    computation: &Numbered<'_>,
    all: &[Numbered<'_>],
) -> HloInstructionProto {
    let instruction = numbered.instruction;
    let operand_id = |&at: &usize| computation.instructions.get(at).map(|operand| operand.id);
    let mut called: Vec<i64> = numbered
        .called
        .iter()
        .filter_map(|&at| all.get(at).map(|called| called.id))
        .collect();
    if instruction.op == Op::While {
        // XLA reads the body first.
        called.reverse();
    }
    let mut proto = HloInstructionProto {
        name: numbered.name.clone(),
        opcode: instruction.op.opcode().to_owned(),
        shape: Some(instruction.shape.to_proto()),
        id: numbered.id,
        operand_ids: instruction.operands.iter().filter_map(operand_id).collect(),
        called_computation_ids: called,
        ..HloInstructionProto::default()
    };
    if !instruction.scope.is_empty() {
        proto.metadata = Some(OpMetadata {
            op_name: instruction.scope.clone(),
            ..OpMetadata::default()
        });
    }
    attributes(&mut proto, &instruction.op);
    proto
}

// Plugins of today take replica groups in the field that hlo.proto marks as deprecated, old and new
// ones alike.
#[allow(deprecated)]
fn attributes(proto: &mut HloInstructionProto, op: &Op) {
    match op {
        Op::Plain(_) | Op::While | Op::Conditional | Op::Call => {}
        Op::Parameter { number, .. } => proto.parameter_number = *number,
        Op::Constant(literal) => proto.literal = Some(literal.to_proto()),
        Op::Dimensions(_, dims) | Op::Reduce { dims } => proto.dimensions = dims.clone(),
        Op::Compare(direction, comparison) => {
            proto.comparison_direction = direction.name().to_owned();
            proto.comparison_type = comparison.name().to_owned();
        }
        Op::Iota { dim } => proto.dimensions = vec![*dim],
        Op::ReducePrecision {
            exponent_bits,
            mantissa_bits,
        } => {
            proto.exponent_bits = *exponent_bits;
            proto.mantissa_bits = *mantissa_bits;
        }
        Op::Slice {
            starts,
            limits,
            strides,
        } => {
            let dims = starts.iter().zip(limits).zip(strides);
            proto.slice_dimensions = dims
                .map(|((&start, &limit), &stride)| SliceDimensions {
                    start,
                    limit,
                    stride,
                })
                .collect();
        }
        Op::DynamicSlice { sizes } => proto.dynamic_slice_sizes = sizes.clone(),
        Op::Pad {
            low,
            high,
            interior,
        } => {
            let dims = low.iter().zip(high).zip(interior);
            let dimensions = dims.map(|((&low, &high), &interior)| PaddingConfigDimension {
                edge_padding_low: low,
                edge_padding_high: high,
                interior_padding: interior,
            });
            proto.padding_config = Some(PaddingConfig {
                dimensions: dimensions.collect(),
            });
        }
        Op::Gather(dims) => {
            proto.gather_dimension_numbers = Some(GatherDimensionNumbers {
                offset_dims: dims.offset_dims.clone(),
                collapsed_slice_dims: dims.collapsed_slice_dims.clone(),
                start_index_map: dims.start_index_map.clone(),
                index_vector_dim: dims.index_vector_dim,
                ..GatherDimensionNumbers::default()
            });
            proto.gather_slice_sizes = dims.slice_sizes.clone();
            proto.indices_are_sorted = dims.indices_are_sorted;
        }
        Op::Scatter(dims) => {
            proto.scatter_dimension_numbers = Some(ScatterDimensionNumbers {
                update_window_dims: dims.update_window_dims.clone(),
                inserted_window_dims: dims.inserted_window_dims.clone(),
                scatter_dims_to_operand_dims: dims.scatter_dims_to_operand_dims.clone(),
                index_vector_dim: dims.index_vector_dim,
                ..ScatterDimensionNumbers::default()
            });
            proto.indices_are_sorted = dims.indices_are_sorted;
            proto.unique_indices = dims.unique_indices;
        }
        Op::Dot(dims, precision) => {
            proto.dot_dimension_numbers = Some(DotDimensionNumbers {
                lhs_contracting_dimensions: dims.lhs_contracting.clone(),
                rhs_contracting_dimensions: dims.rhs_contracting.clone(),
                lhs_batch_dimensions: dims.lhs_batch.clone(),
                rhs_batch_dimensions: dims.rhs_batch.clone(),
            });
            proto.precision_config = Some(precision_config(*precision));
        }
        Op::ReduceWindow { window } => {
            proto.window = Some(Window {
                dimensions: window.iter().map(window_dimension).collect(),
            });
        }
        Op::Sort { dim, stable } => {
            proto.dimensions = vec![*dim];
            proto.is_stable = *stable;
        }
        Op::GetTupleElement { index } => proto.tuple_index = *index,
        Op::AllReduce { groups } => proto.replica_groups = replica_groups(groups),
        Op::AlongDim { dim, groups, .. } => {
            proto.dimensions = vec![*dim];
            proto.replica_groups = replica_groups(groups);
        }
        Op::CollectivePermute { pairs } => {
            proto.source_target_pairs = pairs
                .iter()
                .map(|&(source, target)| SourceTarget { source, target })
                .collect();
        }
        Op::CustomCall { target, options } => custom_call(proto, target, options),
    }
}

fn replica_groups(groups: &[Vec<i64>]) -> Vec<ReplicaGroup> {
    let groups = groups.iter().map(|group| ReplicaGroup {
        replica_ids: group.clone(),
    });
    groups.collect()
}

fn precision_config(precision: Precision) -> PrecisionConfig {
    let precision = match precision {
        Precision::Default => precision_config::Precision::Default,
        Precision::High => precision_config::Precision::High,
        Precision::Highest => precision_config::Precision::Highest,
    };
    PrecisionConfig {
        operand_precision: vec![precision.into(); 2],
        ..PrecisionConfig::default()
    }
}

fn window_dimension(dim: &WindowDim) -> WindowDimension {
    WindowDimension {
        size: dim.size,
        stride: dim.stride,
        padding_low: dim.padding_low,
        padding_high: dim.padding_high,
        window_dilation: 1,
        base_dilation: 1,
        window_reversal: false,
    }
}

fn custom_call(proto: &mut HloInstructionProto, target: &str, options: &CustomCallOptions) {
    proto.custom_call_target = target.to_owned();
    proto.backend_config = options.backend_config.clone().into_bytes();
    proto.custom_call_api_version = match options.api_version {
        CustomCallApi::TypedFfi => CustomCallApiVersion::ApiVersionTypedFfi,
        CustomCallApi::StatusReturningUnified => {
            CustomCallApiVersion::ApiVersionStatusReturningUnified
        }
    }
    .into();
    if let Some(layouts) = &options.operand_layouts {
        proto.constrain_layout = true;
        proto.operand_shapes_with_layout = layouts.iter().map(Shape::to_proto).collect();
    }
    proto.custom_call_has_side_effect = options.has_side_effect;
    proto.output_operand_aliasing = options
        .output_operand_aliasing
        .iter()
        .map(|alias| OutputOperandAliasing {
            output_shape_index: alias.output_index.clone(),
            operand_index: alias.operand,
            operand_shape_index: alias.operand_index.clone(),
        })
        .collect();
}
