//! Ids and names: which computations a module holds, in which order, and what their instructions
//! are called.

use std::collections::HashSet;

use crate::instruction::{Instruction, Op};
use crate::{Computation, Module};

/// A computation of a module with its id and name, and its instructions with theirs.
pub(crate) struct Numbered<'a> {
    pub(crate) computation: &'a Computation,
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) instructions: Vec<NumberedInstruction<'a>>,
}

pub(crate) struct NumberedInstruction<'a> {
    pub(crate) instruction: &'a Instruction,
    pub(crate) id: i64,
    pub(crate) name: String,
    /// Positions of the called computations in the module.
    pub(crate) called: Vec<usize>,
}

/// All computations of a module, called ones before their callers, the entry last.
pub(crate) fn number(module: &Module) -> Vec<Numbered<'_>> {
    let mut numbering = Numbering::default();
    numbering.place(module.entry());
    numbering.placed
}

#[derive(Default)]
struct Numbering<'a> {
    placed: Vec<Numbered<'a>>,
    names: HashSet<String>,
    instructions: i64,
}

impl<'a> Numbering<'a> {
    /// The position of a computation, which is given one if it has none yet.
    fn place(&mut self, computation: &'a Computation) -> usize {
        if let Some(at) = self
            .placed
            .iter()
            .position(|numbered| numbered.computation == computation)
        {
            return at;
        }
        let called: Vec<Vec<usize>> = computation
            .instructions()
            .iter()
            .map(|i| i.called.iter().map(|c| self.place(c)).collect())
            .collect();
        let instructions = computation
            .instructions()
            .iter()
            .zip(called)
            .map(|(instruction, called)| {
                self.instructions += 1;
                NumberedInstruction {
                    instruction,
                    id: self.instructions,
                    name: format!("{}.{}", stem(instruction), self.instructions),
                    called,
                }
            })
            .collect();
        let at = self.placed.len();
        let id = i64::try_from(at).map_or(i64::MAX, |at| at + 1);
        let numbered = Numbered {
            computation,
            id,
            name: self.unique(sanitized(computation.name()), id),
            instructions,
        };
        self.placed.push(numbered);
        at
    }

    /// The name, with the id where another computation has it.
    fn unique(&mut self, name: String, id: i64) -> String {
        let mut candidate = name.clone();
        while !self.names.insert(candidate.clone()) {
            candidate = format!("{candidate}.{id}");
        }
        candidate
    }
}

/// The part of an instruction's name that stands before its number.
fn stem(instruction: &Instruction) -> String {
    match (&instruction.name, &instruction.op) {
        (Some(name), _) | (None, Op::Parameter { name, .. }) => sanitized(name),
        (None, op) => op.opcode().to_owned(),
    }
}

/// A name of the characters that HLO text allows in one: letters, digits, `_`, `.`, `-`, the first
/// no digit, dot or dash.
pub(crate) fn sanitized(name: &str) -> String {
    let mut clean: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' => c,
            _ => '_',
        })
        .collect();
    if !clean.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        clean.insert(0, '_');
    }
    clean
}
