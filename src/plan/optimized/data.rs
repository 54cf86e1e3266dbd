//! What is known of an optimized program: its instructions with their costs, and sums of them.

use std::collections::BTreeMap;

/// A program after the compiler's optimizations.
///
/// Instructions that run once in a call are kept apart from those of loops whose trip count the
/// program itself does not fix. In a decode program there is one such loop, and its body is one
/// step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizedProgram {
    /// What runs once in a call; loops with a known trip count are multiplied out.
    pub once: Costs,
    /// One trip of each outermost loop with an unknown trip count: its body and its condition.
    pub open_loops: Vec<OpenLoop>,
}

/// A loop whose trip count is not known.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenLoop {
    /// The name of its instruction.
    pub name: String,
    /// What one trip executes.
    pub trip: Costs,
}

/// Instructions that are executed, and the reasons why sums over them would be too small.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs {
    /// The instructions.
    pub executed: Vec<Executed>,
    /// Names of loops among them with an unknown trip count; one trip of each is in `executed`.
    pub unknown_trips: Vec<String>,
}

/// An instruction that is executed.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Executed {
    /// Its name in the optimized program.
    pub name: String,
    /// Its opcode.
    pub opcode: String,
    /// The kind of a fusion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fusion_kind: Option<String>,
    /// Its result's type and dimensions.
    pub shape: String,
    /// The compiler's estimate of one execution, in cycles; none where it gives none, which is so
    /// for instructions that take no time.
    pub cycles: Option<u64>,
    /// Whether it takes time and the compiler has no estimate of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unestimated: bool,
    /// How often it is executed.
    pub times: u64,
    /// The scope and name that the lowering gave to the instruction that it came from, such as
    /// `layers/3/self_attn/q_proj`; empty where the compiler did not keep it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Bytes that one execution reads from and writes to the chip's memory.
    pub memory_bytes: u64,
    /// The transfers between devices that it starts.
    #[serde(skip)]
    pub collectives: Vec<Transfer>,
    /// Set where it copies a whole cache within the chip's memory.
    #[serde(skip)]
    pub cache_copy: Option<Relayout>,
    /// Set where it writes a whole cache from the core to the chip's memory.
    #[serde(skip)]
    pub cache_write_back: Option<Relayout>,
}

/// The layouts between which an array is copied: the order of its dimensions in memory, the
/// innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayout {
    /// That of the operand.
    pub from: String,
    /// That of the result.
    pub to: String,
}

/// One transfer between devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// One of HLO's collective operations.
    pub kind: &'static str,
    /// Bytes on a device of the array that the devices build or split together.
    pub bytes: u64,
}

/// All transfers of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collective {
    /// How many are executed.
    pub count: u64,
    /// Bytes of the arrays that they reduce, gather, scatter or pass on: for each the larger of
    /// what a device sends and what it receives.
    pub bytes: u64,
}

impl Executed {
    /// The estimate of all its executions; none where that is not known or does not fit in 64 bits.
    pub fn all_cycles(&self) -> Option<u64> {
        self.cycles?.checked_mul(self.times)
    }
}

impl Costs {
    /// Adds `other`, executed `times` times.
    pub fn add(&mut self, other: &Self, times: u64) {
        self.executed
            .extend(other.executed.iter().map(|executed| Executed {
                times: executed.times.saturating_mul(times),
                ..executed.clone()
            }));
        self.unknown_trips.extend_from_slice(&other.unknown_trips);
    }

    /// Why the sum of cycles is not known: a reason each. Empty where it is.
    pub fn unknown(&self) -> Vec<String> {
        let mut reasons: Vec<_> = self
            .unknown_trips
            .iter()
            .map(|name| format!("the trip count of the loop {name} is not known"))
            .collect();
        let mut unestimated = self.executed.iter().filter(|e| e.unestimated);
        if let Some(first) = unestimated.next() {
            let others = match unestimated.count() {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            reasons.push(format!(
                "the compiler has no estimate for {} ({} {}){others}",
                first.name, first.opcode, first.shape
            ));
        }
        if reasons.is_empty() && self.sum().is_none() {
            reasons.push("the sum of the estimates is out of range".into());
        }
        reasons
    }

    /// The sum of the compiler's estimates, in cycles. None where a part of it is not known.
    pub fn cycles(&self) -> Option<u64> {
        self.unknown().is_empty().then(|| self.sum())?
    }

    /// The sum of those that there are; none where it is out of range.
    fn sum(&self) -> Option<u64> {
        let mut estimated = self.executed.iter().filter(|e| e.cycles.is_some());
        estimated.try_fold(0_u64, |sum, executed| {
            sum.checked_add(executed.all_cycles()?)
        })
    }

    /// Bytes that all executions read from and write to the chip's memory. None where a trip count
    /// is not known.
    pub fn memory_bytes(&self) -> Option<u64> {
        if !self.unknown_trips.is_empty() {
            return None;
        }
        self.executed.iter().try_fold(0_u64, |sum, executed| {
            sum.checked_add(executed.memory_bytes.checked_mul(executed.times)?)
        })
    }

    /// The transfers between devices, by kind. None where a trip count is not known.
    pub fn collectives(&self) -> Option<BTreeMap<&'static str, Collective>> {
        if !self.unknown_trips.is_empty() {
            return None;
        }
        let mut found = BTreeMap::<_, Collective>::new();
        for executed in &self.executed {
            for transfer in &executed.collectives {
                let sum = found.entry(transfer.kind).or_default();
                sum.count = sum.count.saturating_add(executed.times);
                let bytes = transfer.bytes.saturating_mul(executed.times);
                sum.bytes = sum.bytes.saturating_add(bytes);
            }
        }
        Some(found)
    }
}

/// The `count` instructions whose executions cost most.
pub fn costliest(costs: &Costs, count: usize) -> Vec<Executed> {
    let mut sorted = costs.executed.clone();
    sorted.sort_by_key(|e| std::cmp::Reverse((e.all_cycles().unwrap_or(0), e.memory_bytes)));
    sorted.truncate(count);
    sorted
}
