//! The whole forward pass, for comparing with another implementation.

use hlo::{ArrayShape, Tensor};

use super::super::ModelSpec;
use super::super::nn::Kept;
use super::super::pass::Pass;
use super::super::ports::Ports;
use super::prefill::PromptInputs;
use super::prompt::Prompt;
use super::{Arguments, Caches, Outcome, Program};

/// Runs left-padded prompts and gives everything that there is to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// Prompts.
    pub batch: usize,
    /// Tokens in each, padding included.
    pub length: usize,
}

/// Logits and hidden states of all groups of the data axis, float32 holding values of the compute
/// dtype.
#[derive(Clone, Debug)]
pub struct ForwardResults<T> {
    /// [groups · batch, length, vocab].
    pub logits: T,
    /// The embedding's output, each layer's, and the final norm's in place of the last layer's,
    /// each [groups · batch, length, hidden].
    pub hidden_states: Vec<T>,
}

impl<T> Ports for ForwardResults<T> {
    type Item = T;

    fn named(self) -> Vec<(&'static str, T)> {
        let states = self.hidden_states.into_iter();
        std::iter::once(("logits", self.logits))
            .chain(states.map(|state| ("hidden_state", state)))
            .collect()
    }

    fn take(items: &mut dyn Iterator<Item = T>) -> Option<Self> {
        Some(Self {
            logits: items.next()?,
            hidden_states: items.collect(),
        })
    }
}

impl Program for Forward {
    const NAME: &'static str = "forward";
    type Inputs<T> = PromptInputs<T>;
    type Results<T> = ForwardResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        vec![("batch", self.batch), ("length", self.length)]
    }

    fn positions(&self) -> usize {
        self.length
    }

    fn caches(&self) -> Caches {
        Caches::None
    }

    fn inputs(&self, _: &ModelSpec) -> PromptInputs<ArrayShape> {
        PromptInputs::of(self.batch, self.length)
    }

    fn compared(&self) -> bool {
        true
    }

    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<PromptInputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<ForwardResults<Tensor<'b>>, Tensor<'b>> {
        let gemma = &pass.spec.gemma;
        let inputs = arguments.inputs;
        let prompt = Prompt::whole(pass, arguments.ropes, inputs.attention_mask);
        let reported = |x| gemma.reported(pass, x, self.batch);
        let mut hidden_states = Vec::new();
        let mut stream = gemma.embed(pass, inputs.input_ids);
        let mut seen = Vec::new();
        for block in &gemma.layers {
            hidden_states.push(reported(stream.x));
            stream = block.forward(pass, stream, &prompt.tokens, Kept::All, |attention, new| {
                seen.extend(new.cache);
                let spec = attention.spec();
                let bias = prompt.masks.of(spec.window);
                attention.attend(pass, new.queries, seen[spec.cache], bias)
            });
        }
        let normed = gemma.final_norm(pass, stream.x);
        hidden_states.push(reported(normed));
        let logits = gemma.whole_logits(pass, gemma.logits(pass, normed));
        Outcome {
            results: ForwardResults {
                logits: reported(logits),
                hidden_states,
            },
            caches: Vec::new(),
        }
    }
}
