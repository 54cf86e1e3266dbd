//! Environment variables that plugins read.
//!
//! Some of a plugin's behaviour can be configured only through the environment of its process,
//! before it is loaded. Changing the environment is a data race with any thread that reads it, in C
//! too. So it is changed in one place, at the start of a process, or not at all.

use super::error::{Error, Result};

/// Keeps XLA from writing its informational log to standard error; warnings and errors still come.
pub const QUIET: [(&str, &str); 1] = [("TF_CPP_MIN_LOG_LEVEL", "1")];

/// Sets those of the variables that are not set. Call this first in `main`: it changes nothing once
/// the process has more than one thread.
///
/// # Errors
/// [`Error::Environment`] where a variable is not set and the process has other threads, or this
/// cannot be determined.
pub fn set_defaults(variables: &[(&'static str, &'static str)]) -> Result<()> {
    for &(name, value) in variables {
        if std::env::var_os(name).is_some() {
            continue;
        }
        if !single_threaded() {
            return Err(Error::Environment { name, value });
        }
        // SAFETY: this is the only thread of the process, so nothing else reads or writes the
        // environment now, and no other thread can be started meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

/// Whether the kernel lists one thread for this process. Only Linux tells; elsewhere this is false.
fn single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_left_alone_where_there_are_other_threads() {
        // The test harness is another thread.
        const NAME: &str = "GEMMA_XLA_TEST_OF_SET_DEFAULTS";
        assert!(!single_threaded());
        assert_eq!(
            set_defaults(&[(NAME, "1")]),
            Err(Error::Environment {
                name: NAME,
                value: "1"
            })
        );
        assert_eq!(std::env::var_os(NAME), None);
    }

    #[test]
    fn what_is_set_already_is_no_error() {
        assert_eq!(set_defaults(&[("PATH", "/nowhere")]), Ok(()));
        assert_ne!(std::env::var_os("PATH"), Some("/nowhere".into()));
    }
}
