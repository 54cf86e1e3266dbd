//! The MLP's activation function, chosen by the reference's rule.

use std::fmt;

/// The activation of the MLP's gate. The names are those that Transformers' Flax models know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, the tanh approximation of GELU (Hendrycks and
    /// Gimpel, 2016).
    GeluTanh,
    /// `x·Φ(x)`, GELU by the error function (Hendrycks and Gimpel, 2016).
    GeluExact,
    /// `x·sigmoid(1.702·x)`, the sigmoid approximation of GELU.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x·sigmoid(x)`, also called swish.
    Silu,
    /// `tanh(x)`.
    Tanh,
}

/// The names in configurations, the preferred one of each function first.
const NAMES: [(&str, Activation); 8] = [
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu", Activation::GeluExact),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
];

impl Activation {
    /// The function with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, activation)| *activation)
    }

    /// The name that a configuration gives it.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(_, activation)| *activation == self)
            .map_or("", |(name, _)| name)
    }

    /// Every name that [`Activation::from_name`] knows, comma separated.
    pub(super) fn known_names() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
