//! The panics of libraries that take more for granted of a tokenizer's file than holds.

use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are expected, and say nothing.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Calls into a library: its error, or its panic, as what is wrong with the file. Panics elsewhere are reported as before.
///
/// What the call changes must be of no use to anybody after a panic.
pub(super) fn caught<T, E: Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    static SILENCE: Once = Once::new();
    SILENCE.call_once(|| {
        let report = take_hook();
        set_hook(Box::new(move |panic| {
            if !EXPECTED.get() {
                report(panic);
            }
        }));
    });
    EXPECTED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    EXPECTED.set(false);
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
        assert!(!EXPECTED.get());
    }
}
