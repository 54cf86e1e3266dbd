//! Modules as HLO text, in the form that XLA prints and parses.

use std::fmt::{self, Write};

use crate::instruction::Op;
use crate::literal_text::write_literal;
use crate::numbering::{Numbered, NumberedInstruction, number, sanitized};
use crate::ops::{CustomCallOptions, Precision, WindowDim};
use crate::shape::comma;
use crate::{AliasKind, Module, Shape};

pub(crate) fn module(module: &Module) -> String {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write_module(&mut out, module);
    out
}

fn write_module(out: &mut String, module: &Module) -> fmt::Result {
    write!(out, "HloModule {}", sanitized(module.name()))?;
    let aliases: Vec<String> = module
        .aliases()
        .iter()
        .map(|alias| {
            let kind = match alias.kind {
                AliasKind::May => "may-alias",
                AliasKind::Must => "must-alias",
            };
            format!(
                "{}: ({}, {}, {kind})",
                braced(&alias.output_index),
                alias.parameter,
                braced(&alias.parameter_index)
            )
        })
        .collect();
    if !aliases.is_empty() {
        write!(out, ", input_output_alias={{ {} }}", aliases.join(", "))?;
    }
    let parameters: Vec<String> = module.parameters().iter().map(Shape::to_string).collect();
    writeln!(
        out,
        ", entry_computation_layout={{({})->{}}}",
        parameters.join(", "),
        module.result_shape()
    )?;
    let numbered = number(module);
    for (i, one) in numbered.iter().enumerate() {
        out.push('\n');
        if i + 1 == numbered.len() {
            out.push_str("ENTRY ");
        }
        write_computation(out, one, &numbered)?;
    }
    Ok(())
}

fn write_computation(out: &mut String, one: &Numbered<'_>, all: &[Numbered<'_>]) -> fmt::Result {
    let parameters: Vec<String> = one
        .instructions
        .iter()
        .filter(|i| matches!(i.instruction.op, Op::Parameter { .. }))
        .map(|i| format!("{}: {}", i.name, i.instruction.shape))
        .collect();
    writeln!(
        out,
        "%{} ({}) -> {} {{",
        one.name,
        parameters.join(", "),
        one.computation.result_shape()
    )?;
    for (i, instruction) in one.instructions.iter().enumerate() {
        out.push_str("  ");
        if i == one.computation.root() {
            out.push_str("ROOT ");
        }
        write_instruction(out, instruction, one, all)?;
        out.push('\n');
    }
    out.push_str("}\n");
    Ok(())
}

fn write_instruction(
    out: &mut String,
    numbered: &NumberedInstruction<'_>,
    computation: &Numbered<'_>,
    all: &[Numbered<'_>],
) -> fmt::Result {
    let instruction = numbered.instruction;
    write!(
        out,
        "%{} = {} {}(",
        numbered.name,
        instruction.shape,
        instruction.op.opcode()
    )?;
    match &instruction.op {
        Op::Parameter { number, .. } => write!(out, "{number}")?,
        Op::Constant(literal) => write_literal(out, literal)?,
        _ => {
            let operands: Vec<String> = instruction
                .operands
                .iter()
                .filter_map(|&at| computation.instructions.get(at))
                .map(|operand| format!("%{}", operand.name))
                .collect();
            out.push_str(&operands.join(", "));
        }
    }
    out.push(')');
    let called: Vec<&str> = numbered
        .called
        .iter()
        .filter_map(|&at| all.get(at).map(|called| called.name.as_str()))
        .collect();
    for attribute in attributes(&instruction.op)
        .into_iter()
        .chain(calls(&instruction.op, &called))
    {
        write!(out, ", {attribute}")?;
    }
    if !instruction.scope.is_empty() {
        write!(out, ", metadata={{op_name={}}}", quoted(&instruction.scope))?;
    }
    Ok(())
}

/// The called computations, by the role that they have in the operation.
fn calls(op: &Op, called: &[&str]) -> Vec<String> {
    let roles: &[&str] = match op {
        Op::While => &["condition", "body"],
        Op::Conditional => &["true_computation", "false_computation"],
        _ => &["to_apply"],
    };
    roles
        .iter()
        .zip(called)
        .map(|(role, name)| format!("{role}=%{name}"))
        .collect()
}

fn attributes(op: &Op) -> Vec<String> {
    match op {
        Op::Plain(_)
        | Op::Parameter { .. }
        | Op::Constant(_)
        | Op::While
        | Op::Conditional
        | Op::Call => vec![],
        Op::Dimensions(_, dims) | Op::Reduce { dims } => vec![list("dimensions", dims)],
        Op::Compare(direction, _) => vec![format!("direction={}", direction.name())],
        Op::Iota { dim } => vec![format!("iota_dimension={dim}")],
        Op::ReducePrecision {
            exponent_bits,
            mantissa_bits,
        } => vec![
            format!("exponent_bits={exponent_bits}"),
            format!("mantissa_bits={mantissa_bits}"),
        ],
        Op::Slice {
            starts,
            limits,
            strides,
        } => {
            let dims = starts.iter().zip(limits).zip(strides);
            let ranges: Vec<String> = dims
                .map(|((start, limit), stride)| match stride {
                    1 => format!("[{start}:{limit}]"),
                    _ => format!("[{start}:{limit}:{stride}]"),
                })
                .collect();
            vec![format!("slice={{{}}}", ranges.join(", "))]
        }
        Op::DynamicSlice { sizes } => vec![list("dynamic_slice_sizes", sizes)],
        Op::Pad {
            low,
            high,
            interior,
        } => {
            let dims = low.iter().zip(high).zip(interior);
            let dims: Vec<String> = dims
                .map(|((low, high), interior)| match interior {
                    0 => format!("{low}_{high}"),
                    _ => format!("{low}_{high}_{interior}"),
                })
                .collect();
            vec![format!("padding={}", dims.join("x"))]
        }
        Op::Gather(dims) => {
            let mut attributes = vec![
                list("offset_dims", &dims.offset_dims),
                list("collapsed_slice_dims", &dims.collapsed_slice_dims),
                list("start_index_map", &dims.start_index_map),
                format!("index_vector_dim={}", dims.index_vector_dim),
                list("slice_sizes", &dims.slice_sizes),
            ];
            attributes.extend(flag("indices_are_sorted", dims.indices_are_sorted));
            attributes
        }
        Op::Scatter(dims) => {
            let mut attributes = vec![
                list("update_window_dims", &dims.update_window_dims),
                list("inserted_window_dims", &dims.inserted_window_dims),
                list(
                    "scatter_dims_to_operand_dims",
                    &dims.scatter_dims_to_operand_dims,
                ),
                format!("index_vector_dim={}", dims.index_vector_dim),
            ];
            attributes.extend(flag("indices_are_sorted", dims.indices_are_sorted));
            attributes.extend(flag("unique_indices", dims.unique_indices));
            attributes
        }
        Op::Dot(dims, precision) => {
            let lists = [
                ("lhs_batch_dims", &dims.lhs_batch),
                ("lhs_contracting_dims", &dims.lhs_contracting),
                ("rhs_batch_dims", &dims.rhs_batch),
                ("rhs_contracting_dims", &dims.rhs_contracting),
            ];
            let mut attributes: Vec<String> = lists
                .iter()
                .filter(|(_, dims)| !dims.is_empty())
                .map(|(name, dims)| list(name, dims))
                .collect();
            if *precision != Precision::Default {
                let name = precision.name();
                attributes.push(format!("operand_precision={{{name},{name}}}"));
            }
            attributes
        }
        Op::ReduceWindow { window } => vec![self::window(window)],
        Op::Sort { dim, stable } => {
            let mut attributes = vec![list("dimensions", &[*dim])];
            attributes.extend(flag("is_stable", *stable));
            attributes
        }
        Op::GetTupleElement { index } => vec![format!("index={index}")],
        Op::AllReduce { groups } => vec![replica_groups(groups)],
        Op::AlongDim { dim, groups, .. } => {
            vec![replica_groups(groups), list("dimensions", &[*dim])]
        }
        Op::CollectivePermute { pairs } => {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(source, target)| format!("{{{source},{target}}}"))
                .collect();
            vec![format!("source_target_pairs={{{}}}", pairs.join(","))]
        }
        Op::CustomCall { target, options } => custom_call(target, options),
    }
}

fn window(window: &[WindowDim]) -> String {
    if window.is_empty() {
        return "window={}".to_owned();
    }
    let join = |word: fn(&WindowDim) -> String| {
        let words: Vec<String> = window.iter().map(word).collect();
        words.join("x")
    };
    format!(
        "window={{size={} stride={} pad={}}}",
        join(|w| w.size.to_string()),
        join(|w| w.stride.to_string()),
        join(|w| format!("{}_{}", w.padding_low, w.padding_high))
    )
}

fn custom_call(target: &str, options: &CustomCallOptions) -> Vec<String> {
    let mut attributes = vec![format!("custom_call_target={}", quoted(target))];
    if let Some(layouts) = &options.operand_layouts {
        let layouts: Vec<String> = layouts.iter().map(Shape::to_string).collect();
        attributes.push(format!(
            "operand_layout_constraints={{{}}}",
            layouts.join(", ")
        ));
    }
    attributes.extend(flag("custom_call_has_side_effect", options.has_side_effect));
    if !options.output_operand_aliasing.is_empty() {
        let aliases: Vec<String> = options
            .output_operand_aliasing
            .iter()
            .map(|alias| {
                format!(
                    "{}: ({}, {})",
                    braced(&alias.output_index),
                    alias.operand,
                    braced(&alias.operand_index)
                )
            })
            .collect();
        attributes.push(format!(
            "output_to_operand_aliasing={{{}}}",
            aliases.join(", ")
        ));
    }
    attributes.push(format!("api_version={}", options.api_version.name()));
    if !options.backend_config.is_empty() {
        attributes.push(format!(
            "backend_config={}",
            quoted(&options.backend_config)
        ));
    }
    attributes
}

fn replica_groups(groups: &[Vec<i64>]) -> String {
    let groups: Vec<String> = groups.iter().map(|group| braced(group)).collect();
    format!("replica_groups={{{}}}", groups.join(","))
}

fn list(name: &str, numbers: &[i64]) -> String {
    format!("{name}={}", braced(numbers))
}

fn braced(numbers: &[i64]) -> String {
    format!("{{{}}}", comma(numbers))
}

fn flag(name: &str, set: bool) -> Option<String> {
    set.then(|| format!("{name}=true"))
}

/// A string in quotes, with C's escapes for what may not stand between them.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // HLO text is ASCII: other characters are written as their UTF-8 bytes in octal.
            c if c.is_ascii_graphic() || c == ' ' => out.push(c),
            c => {
                for byte in c.to_string().bytes() {
                    out.push_str(&format!("\\{byte:03o}"));
                }
            }
        }
    }
    out.push('"');
    out
}
