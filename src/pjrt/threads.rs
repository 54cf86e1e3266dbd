//! Whether the system gives a plugin its threads: XLA ends the process where it does not.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use super::error::{Error, Result};

/// Threads of a plugin for each processor, and for all of them: XLA's CPU client has two pools of
/// one a processor.
const PER_PROCESSOR: usize = 4;
const FURTHER: usize = 16;
/// What a thread that only waits needs.
const STACK: usize = 64 << 10;

/// Looks whether the system gives so many threads as a plugin may need.
///
/// # Errors
/// [`Error::NoThreads`].
pub(super) fn check() -> Result<()> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    try_threads(processors * PER_PROCESSOR + FURTHER, |end| {
        let builder = thread::Builder::new().stack_size(STACK);
        // An error is the end of the channel, for which it waits.
        builder.spawn(move || {
            let _ = end.recv();
        })
    })
}

fn try_threads(
    wanted: usize,
    mut spawn: impl FnMut(Receiver<()>) -> io::Result<JoinHandle<()>>,
) -> Result<()> {
    let mut ends = Vec::with_capacity(wanted);
    let mut threads = Vec::with_capacity(wanted);
    let mut outcome = Ok(());
    for _ in 0..wanted {
        let (end, ended) = channel();
        match spawn(ended) {
            Ok(thread) => {
                ends.push(end);
                threads.push(thread);
            }
            Err(problem) => {
                let reason = problem.to_string();
                outcome = Err(Error::NoThreads { wanted, reason });
                break;
            }
        }
    }
    // All of them are there at the same time until here.
    drop(ends);
    for thread in threads {
        let _ = thread.join();
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_threads_is_one_line() {
        let mut left = 3;
        let few = |end: Receiver<()>| {
            left -= 1;
            match left {
                0 => Err(io::Error::from_raw_os_error(11)),
                _ => thread::Builder::new().spawn(move || {
                    let _ = end.recv();
                }),
            }
        };
        let message = try_threads(24, few)
            .expect_err("the third fails")
            .to_string();
        assert!(
            message.contains("24 further threads") && message.contains("ulimit -u"),
            "{message}"
        );
        assert!(!message.contains('\n'));
        check().expect("this system has some");
    }
}
