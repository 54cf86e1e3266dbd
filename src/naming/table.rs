//! The names and layouts that a model's parameters are stored in, as its declarations say.

use super::pattern::{NUMBER, filled, matched};
use super::words::{Naming, StoredAs};

/// The names of a model's parameters: Flax's, and others that they are stored by. Where names have
/// a layer's number, the table has `{i}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameTable {
    /// Flax's own names.
    own: Vec<String>,
    /// Other names. Where two rules have the same name, the first whose axes fit the stored shape
    /// holds.
    rules: Vec<Rule>,
    /// The embedding and the head, by Flax's names.
    head: Option<(String, String)>,
}

/// A stored tensor, and the parameters that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub naming: Naming,
    pub stored: String,
    pub axes: &'static str,
    pub parts: Vec<RulePart>,
}

/// A parameter that is stored in a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RulePart {
    /// Flax's name.
    pub name: String,
    /// Its axes in Flax's order.
    pub view: &'static str,
    /// Which of those along the numbered axis it is.
    pub part: usize,
}

impl NameTable {
    /// What names have in place of a layer's number.
    pub const LAYER: &'static str = NUMBER;

    /// The table of parameters, given by Flax's name and the other ways in which they are stored,
    /// with `{i}` in place of a layer's number.
    pub fn new<'p>(parameters: impl IntoIterator<Item = (&'p str, &'p [StoredAs])>) -> Self {
        let mut table = Self::default();
        for (name, stored) in parameters {
            table.own.push(name.to_owned());
            for stored in stored {
                table.add(name, stored);
            }
        }
        table
    }

    /// The same table, which knows that `head` is the transpose of `embedding` in a model whose
    /// head is tied to it.
    #[must_use]
    pub fn with_head(self, embedding: &str, head: &str) -> Self {
        Self {
            head: Some((embedding.to_owned(), head.to_owned())),
            ..self
        }
    }

    /// Flax's names of the embedding and of the head.
    pub(crate) fn head(&self) -> Option<(&str, &str)> {
        let (embedding, head) = self.head.as_ref()?;
        Some((embedding, head))
    }

    fn add(&mut self, name: &str, stored: &StoredAs) {
        let part = RulePart {
            name: name.to_owned(),
            view: stored.view,
            part: stored.part,
        };
        let mut rules = self.rules.iter_mut();
        match rules.find(|rule| rule.stored == stored.name && rule.axes == stored.axes) {
            Some(rule) => rule.parts.push(part),
            None => self.rules.push(Rule {
                naming: stored.naming,
                stored: stored.name.clone(),
                axes: stored.axes,
                parts: vec![part],
            }),
        }
    }

    /// Whether it is one of Flax's names.
    pub(crate) fn is_own(&self, name: &str) -> bool {
        self.own.iter().any(|own| matched(own, name).is_some())
    }

    /// The rules for a stored name, each with the layer's number.
    pub(crate) fn rules_of<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Rule, &'a str)> {
        let rules = self.rules.iter();
        rules.filter_map(move |rule| Some((rule, matched(&rule.stored, name)?)))
    }

    /// The size of axis `d` where DeepMind's embedding, [v, d], tells it.
    pub(crate) fn width(&self, name: &str, shape: &[usize]) -> Option<usize> {
        let embedding = |rule: &&Rule| rule.naming == Naming::DeepMind && rule.axes == "v d";
        let mut embeddings = self.rules.iter().filter(embedding);
        embeddings
            .any(|rule| rule.stored == name)
            .then(|| shape.get(1).copied())?
    }

    /// PyTorch's name of a parameter by Flax's name, and whether PyTorch has it transposed; none
    /// for a name that the table does not have.
    pub(crate) fn pytorch(&self, name: &str) -> Option<(String, bool)> {
        // Arrays of three axes, or of several parameters, are written under Flax's names.
        let matrix = |axes: &str| axes.chars().filter(|c| *c != ' ').count() <= 2;
        let rules = self.rules.iter();
        let rules = rules.filter(|r| r.naming == Naming::PyTorch && matrix(r.axes));
        for rule in rules {
            for part in &rule.parts {
                if let Some(number) = matched(&part.name, name) {
                    let stored = filled(&rule.stored, number).replace('/', ".");
                    return Some((stored, part.view != rule.axes));
                }
            }
        }
        // Everything else has the same name and layout in both.
        self.is_own(name).then(|| (name.replace('/', "."), false))
    }
}
