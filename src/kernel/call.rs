//! The product as a custom call of XLA programs.

use std::sync::OnceLock;

use hlo::ElementType;

use super::argmax::Argmax;
use super::attention::AttentionCall;
use super::form::{Element, Form};
use super::multiply;
use super::product::{Output, Sizes};
use super::rows::TakeRows;
use crate::pjrt::{Attributes, CallResult, Client, CustomCall, Operand};

/// The name that programs call the product by.
///
/// Operands: `x` [rows, inputs] and `w` [outputs, inputs], both bfloat16 or both float32. Result: [rows, outputs], float32,
/// or bfloat16 where the operands are (the float32 sums, rounded). All row-major, which is what a custom call without
/// layouts gets.
pub const MATMUL: &str = "gemma_xla_matmul";

/// The environment variable that chooses the form by its [name](Form::name), or `off`. Without it the fastest form that the
/// CPU has is taken.
pub const SWITCH: &str = "GEMMA_XLA_CPU_KERNEL";

/// The result of registering.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with the choice of a form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The environment variable has a value that it does not take.
    #[error("{SWITCH}={value}: not one of avx512bf16, avx512, avx2, portable, off")]
    UnknownForm {
        /// The value.
        value: String,
    },
    /// The environment variable names instructions that the CPU does not have.
    #[error("{SWITCH}={form}: this CPU does not have these instructions")]
    UnavailableForm {
        /// The form.
        form: Form,
    },
}

/// Registers the functions with the client's plugin, so that its programs can call [`MATMUL`], [`ATTENTION`](super::ATTENTION),
/// [`TAKE_ROWS`](super::TAKE_ROWS) and [`ARGMAX`](super::ARGMAX). Answers whether they can: not where the platform is no CPU, the plugin
/// takes no registrations, or [`SWITCH`] is `off`; the compiler's own operations have to do then.
///
/// # Errors
/// Where [`SWITCH`] has a value that cannot be followed.
pub fn register(client: &Client) -> Result<bool> {
    if !matches!(client.platform_name(), "cpu" | "host" | "Host") || chosen()?.is_none() {
        return Ok(false);
    }
    let (plugin, platform) = (client.plugin(), client.platform_name());
    let registered = plugin
        .register_custom_call::<Matmul>(platform)
        .and_then(|()| plugin.register_custom_call::<AttentionCall>(platform))
        .and_then(|()| plugin.register_custom_call::<TakeRows>(platform))
        .and_then(|()| plugin.register_custom_call::<Argmax>(platform));
    match registered {
        Ok(()) => Ok(true),
        Err(error) => {
            tracing::debug!("no CPU kernel: {error}");
            Ok(false)
        }
    }
}

/// The form to run with, or none where the kernel is off. Read once: a process has one.
fn chosen() -> Result<Option<Form>> {
    static CHOSEN: OnceLock<Result<Option<Form>>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| match std::env::var_os(SWITCH) {
            None => Ok(Some(Form::best())),
            Some(value) => choose(&value.to_string_lossy()),
        })
        .clone()
}

/// The form that a call runs with: programs that call the kernel may be there although it was turned off since.
pub(super) fn form() -> std::result::Result<Form, String> {
    let chosen = chosen().map_err(|error| error.to_string())?;
    Ok(chosen.unwrap_or(Form::Portable))
}

/// What a value of [`SWITCH`] means.
fn choose(value: &str) -> Result<Option<Form>> {
    match value {
        "" => Ok(Some(Form::best())),
        "off" => Ok(None),
        _ => match Form::named(value) {
            None => Err(Error::UnknownForm {
                value: value.to_owned(),
            }),
            Some(form) if !form.is_available() => Err(Error::UnavailableForm { form }),
            Some(form) => Ok(Some(form)),
        },
    }
}

/// [`MATMUL`].
struct Matmul;

impl CustomCall for Matmul {
    const TARGET: &'static str = MATMUL;

    fn call(
        attributes: &Attributes<'_>,
        operands: &[Operand<'_>],
        results: &mut [CallResult<'_>],
    ) -> std::result::Result<(), String> {
        attributes.only(&[])?;
        let ([x, w], [y]) = (operands, results) else {
            return Err("takes two operands and has one result".to_owned());
        };
        let sizes = sizes(x, w, y)?;
        let form = form()?;
        let run = match (x.element_type(), y.element_type()) {
            (ElementType::BF16, ElementType::F32) => {
                run(form, sizes, x.as_bf16(), w.as_bf16(), y.as_f32_mut())
            }
            (ElementType::BF16, ElementType::BF16) => {
                run(form, sizes, x.as_bf16(), w.as_bf16(), y.as_bf16_mut())
            }
            (ElementType::F32, ElementType::F32) => {
                run(form, sizes, x.as_f32(), w.as_f32(), y.as_f32_mut())
            }
            _ => None,
        };
        run.ok_or_else(|| {
            format!(
                "{} times {} to {} is not offered",
                x.element_type().name(),
                w.element_type().name(),
                y.element_type().name()
            )
        })
    }
}

/// Multiplies, where all three have the element type that was asked of them.
fn run<W: Element, Y: Output>(
    form: Form,
    sizes: Sizes,
    x: Option<&[W]>,
    w: Option<&[W]>,
    y: Option<&mut [Y]>,
) -> Option<()> {
    multiply(form, sizes, x?, w?, y?);
    Some(())
}

/// The sizes of the product, where the dimensions fit.
fn sizes(x: &Operand, w: &Operand, y: &CallResult) -> std::result::Result<Sizes, String> {
    let (x, w, y) = (x.dims(), w.dims(), y.dims());
    match (x, w, y) {
        (&[rows, inputs], &[outputs, w_inputs], &[y_rows, y_outputs])
            if inputs == w_inputs && rows == y_rows && outputs == y_outputs =>
        {
            let size = |dim: i64| usize::try_from(dim).map_err(|error| error.to_string());
            Ok(Sizes {
                rows: size(rows)?,
                inputs: size(inputs)?,
                outputs: size(outputs)?,
            })
        }
        _ => Err(format!("{x:?} times the transpose of {w:?} is not {y:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_takes_every_form_that_the_cpu_has_and_off() {
        assert_eq!(choose(""), Ok(Some(Form::best())));
        assert_eq!(choose("off"), Ok(None));
        for form in Form::ALL {
            let expected = if form.is_available() {
                Ok(Some(form))
            } else {
                Err(Error::UnavailableForm { form })
            };
            assert_eq!(choose(form.name()), expected);
        }
    }

    #[test]
    fn the_switch_refuses_other_words_by_name() {
        let error = choose("sse9").expect_err("no form");
        assert_eq!(
            error.to_string(),
            "GEMMA_XLA_CPU_KERNEL=sse9: not one of avx512bf16, avx512, avx2, portable, off"
        );
    }
}
