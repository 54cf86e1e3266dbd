//! Tokens a second, and what they cost, at the bounds of the programs.

use serde::Serialize;

use super::bound::{Bound, CallBound};
use super::per_program::PerProgram;
use super::topologies::TpuSlice;
use crate::model::GemmaSpec;
use crate::sharding::Mesh;

const SECONDS_PER_HOUR: f64 = 3600.0;
const MILLION: f64 = 1e6;

/// What a whole slice gives, at the bounds: the programs cannot be faster, and are slower by what
/// the bounds leave out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// How many meshes of the request's size the slice has room for. They run side by side.
    pub replicas: usize,
    /// New tokens a second in decode steps, of the whole slice.
    pub decode_tokens_per_second: Option<f64>,
    /// Prompt tokens a second in prefill, of the whole slice.
    pub prefill_tokens_per_second: Option<f64>,
    /// The arithmetic that prompts need over what the mesh's chips could do in the same time, in
    /// bfloat16. Padding, and what a program computes twice, does not count.
    pub prefill_share_of_peak: Option<f64>,
    /// Costs, where a price was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// Costs, in the currency of the price.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// The price of a chip for an hour.
    pub price_per_chip_hour: f64,
    /// Chips that are paid for: all of the slice.
    pub chips: usize,
    /// A million prompt tokens, while the slice does nothing else.
    pub per_million_input_tokens: Option<f64>,
    /// A million new tokens, while the slice does nothing else.
    pub per_million_output_tokens: Option<f64>,
}

/// What throughput follows from.
pub(super) struct Workload<'a> {
    pub model: &'a GemmaSpec,
    pub mesh: Mesh,
    pub slice: TpuSlice,
    /// Devices of the slice.
    pub devices: usize,
    /// Prompts in a batch, over the whole mesh.
    pub batch_size: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    pub price: Option<f64>,
}

impl Workload<'_> {
    pub fn throughput(&self, bounds: &PerProgram<Bound>, call: Option<&CallBound>) -> Throughput {
        let replicas = self.devices / self.mesh.devices();
        let rate = |tokens: usize, seconds: f64| (replicas * tokens) as f64 / seconds;
        let prompts = self.batch_size * self.prompt_tokens;
        let decode = bounds.decode.as_ref().zip(call).map(|(step, call)| {
            let rest = call.bound.seconds / call.steps as f64;
            rate(self.batch_size, step.seconds + rest)
        });
        let prefill = bounds
            .prefill
            .as_ref()
            .map(|bound| rate(prompts, bound.seconds));
        let share = bounds.prefill.as_ref().map(|bound| {
            let rows = self.batch_size as f64;
            let needed = rows * prompt_operations(self.model, self.prompt_tokens);
            needed / (bound.seconds * self.slice.chip.peak * self.mesh.devices() as f64)
        });
        let cost = self.price.map(|price| {
            let per_second = price * self.slice.chips as f64 / SECONDS_PER_HOUR;
            let of = |rate: Option<f64>| rate.map(|rate| per_second / rate * MILLION);
            Cost {
                price_per_chip_hour: price,
                chips: self.slice.chips,
                per_million_input_tokens: of(prefill),
                per_million_output_tokens: of(decode),
            }
        });
        Throughput {
            replicas,
            decode_tokens_per_second: decode,
            prefill_tokens_per_second: prefill,
            prefill_share_of_peak: share,
            cost,
        }
    }
}

/// Floating-point operations that a prompt of `tokens` needs, a multiplication and an addition
/// being two: the matrix products, and attention of each token to those that it sees. Of the last
/// layer only keys and values are needed for all tokens, the rest and the head for the last one.
fn prompt_operations(model: &GemmaSpec, tokens: usize) -> f64 {
    let hidden = model.hidden.size() as f64;
    let mut products = hidden * model.vocabulary.size() as f64;
    for (index, layer) in model.layers.iter().enumerate() {
        let (attention, mlp) = (&layer.attention, &layer.mlp);
        let queries = attention.queries.size() as f64;
        let keys_and_values = 2.0 * hidden * attention.key_values.size() as f64;
        let rest = 2.0 * hidden * queries + 3.0 * hidden * mlp.inner.size() as f64;
        // Scores and sums of values, for each pair of a query and a key.
        let pair = 2.0 * queries;
        let is_last = index + 1 == model.layers.len();
        let window = attention.window.unwrap_or(tokens).min(tokens);
        products += tokens as f64 * keys_and_values;
        products += if is_last {
            rest + window as f64 * pair
        } else {
            tokens as f64 * rest + seen_pairs(tokens, window) * pair
        };
    }
    2.0 * products
}

/// Pairs of a token and one that it sees: itself and up to `window - 1` before it.
fn seen_pairs(tokens: usize, window: usize) -> f64 {
    let growing = window.min(tokens) as f64;
    growing * (growing + 1.0) / 2.0 + (tokens as f64 - growing) * growing
}

#[cfg(test)]
mod tests {
    use super::super::chips::CHIPS;
    use super::super::optimized::{Costs, Executed};
    use super::*;
    use crate::config::GemmaConfig;

    fn bound(seconds: f64) -> Bound {
        let chip = &CHIPS[1];
        let costs = Costs {
            executed: vec![Executed {
                cycles: Some((seconds * chip.clock) as u64),
                times: 1,
                ..Executed::default()
            }],
            ..Costs::default()
        };
        Bound::of(&costs, 0, chip).expect("known")
    }

    #[test]
    fn rates_are_those_of_the_slice_and_costs_those_of_all_its_chips() {
        let config = GemmaConfig::named("gemma-2b").expect("known");
        let model = GemmaSpec::new(&config);
        let workload = Workload {
            model: &model,
            mesh: Mesh { data: 1, model: 2 },
            slice: TpuSlice::named("v5e:2x2").expect("known"),
            devices: 4,
            batch_size: 8,
            prompt_tokens: 512,
            price: Some(1.2),
        };
        let bounds = PerProgram {
            prefill: Some(bound(0.1)),
            decode: Some(bound(0.009)),
        };
        let call = CallBound {
            steps: 32,
            bound: bound(0.032),
        };
        let found = workload.throughput(&bounds, Some(&call));
        assert_eq!(found.replicas, 2);
        let close = |found: Option<f64>, expected: f64| {
            let found = found.expect("known");
            assert!((found / expected - 1.0).abs() < 1e-6, "{found}, {expected}");
        };
        close(found.decode_tokens_per_second, 2.0 * 8.0 / 0.010);
        close(found.prefill_tokens_per_second, 2.0 * 8.0 * 512.0 / 0.1);
        let cost = found.cost.expect("a price was given");
        // 4 chips at 1.2 an hour are 1/750 a second.
        close(cost.per_million_output_tokens, 1e6 / 750.0 / 1600.0);
        close(cost.per_million_input_tokens, 1e6 / 750.0 / 81920.0);
        // Two operations a parameter and token, but for the embedding and most of the last layer.
        let products = 17.0 * 512.0 * 110_100_480.0;
        let needed = prompt_operations(&model, 512) / 2.0;
        assert!(needed > products && needed < 1.1 * products, "{needed}");
        let share = found.prefill_share_of_peak.expect("known");
        assert!((share - 2.0 * needed * 8.0 / (0.1 * 2.0 * 197e12)).abs() < 1e-6);
    }

    #[test]
    fn a_window_bounds_the_pairs() {
        let counted = |tokens: usize, window: usize| -> usize {
            (1..=tokens).map(|seen| seen.min(window)).sum()
        };
        for (tokens, window) in [(1, 1), (5, 5), (5, 2), (5, 9), (100, 64)] {
            let expected = counted(tokens, window) as f64;
            assert_eq!(seen_pairs(tokens, window), expected, "{tokens}, {window}");
        }
    }
}
