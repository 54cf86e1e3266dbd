//! Calls into libraries that panic where the parts of a tokenizer's file do not fit each other.

use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Whether this thread is inside a call whose panic is caught.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a call into a library whose panic becomes an
/// [`Error`](super::Error).
///
/// Rust calls a process's panic hook even for a panic that is caught, and the default hook prints
/// the panic. This crate never replaces the hook. A program that wants its own error message alone
/// calls this from a hook of its own, as the `gemma-xla` command does:
///
/// ```
/// let report = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     if !gemma_xla::tokenizer::is_catching_panics() {
///         report(panic);
///     }
/// }));
/// ```
pub fn is_catching_panics() -> bool {
    CATCHING.get()
}

/// Calls into a library and returns its error, or its panic, as what is wrong with the file.
///
/// The state that the call changes must not be used again after a panic.
pub(super) fn caught<T, E: Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    let before = CATCHING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    CATCHING.set(before);
    match outcome {
        Ok(result) => result.map_err(|problem| problem.to_string()),
        Err(_) => Err("a part of it is malformed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_an_error_and_a_panic_come_back() {
        assert_eq!(caught(|| Ok::<_, String>(1)), Ok(1));
        assert_eq!(caught(|| Err::<(), _>("no")), Err("no".to_owned()));
        let none: Option<u8> = None;
        let panics = || none.map(Ok::<_, String>).expect("the library's promise");
        assert_eq!(caught(panics), Err("a part of it is malformed".to_owned()));
        assert!(!is_catching_panics());
    }

    #[test]
    fn a_hook_can_tell_that_a_panic_is_caught() {
        assert_eq!(caught(|| Ok::<_, String>(is_catching_panics())), Ok(true));
        let nested = caught(|| {
            caught(|| Ok::<_, String>(()))?;
            Ok::<_, String>(is_catching_panics())
        });
        assert_eq!(nested, Ok(true), "the outer call still catches");
    }
}
