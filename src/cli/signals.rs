//! The signals that end a run: SIGINT, SIGTERM and SIGHUP.
//!
//! A thread waits for them. A command that has [`deferred`] them finishes what it is at after the
//! first. Otherwise, and at the second, in case a call to the device hangs, the process removes its
//! temporary files and ends with 128 and the signal's number.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::leftovers;

/// What a command has asked for.
#[derive(Clone)]
struct Deferral {
    interrupted: Arc<AtomicBool>,
    signals: &'static [i32],
    is_last: bool,
}

static DEFERRAL: Mutex<Option<Deferral>> = Mutex::new(None);

/// From here on no signal leaves temporary files behind.
///
/// # Errors
/// A system that gives no thread.
pub(super) fn watch() -> anyhow::Result<()> {
    let mut ending = vec![SIGINT, SIGTERM];
    // nohup has it ignored, so that the run goes on when the terminal is closed.
    if !is_ignored(SIGHUP) {
        ending.push(SIGHUP);
    }
    let mut signals = Signals::new(ending).context("cannot wait for signals")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(take))
        .context("cannot wait for signals")?;
    Ok(())
}

/// From here on the first signal sets what is returned, and the second ends the process.
pub(super) fn deferred() -> Arc<AtomicBool> {
    defer(&[SIGINT, SIGTERM, SIGHUP], true)
}

/// From here on every SIGINT sets what is returned, and ends nothing.
pub(super) fn interactive() -> Arc<AtomicBool> {
    defer(&[SIGINT], false)
}

fn defer(signals: &'static [i32], is_last: bool) -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    *DEFERRAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(Deferral {
        interrupted: interrupted.clone(),
        signals,
        is_last,
    });
    interrupted
}

fn take(signal: i32) {
    let deferral = DEFERRAL
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(deferral) = deferral.filter(|deferral| deferral.signals.contains(&signal)) {
        let was_set = deferral.interrupted.swap(true, Ordering::Relaxed);
        if !(was_set && deferral.is_last) {
            return;
        }
    }
    leftovers::remove_own();
    signal_hook::low_level::exit(128 + signal);
}

/// Whether this process was started with a signal ignored, where the system says.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status).is_some_and(|ignored| ignored >> (signal - 1) & 1 == 1)
}

fn ignored_in(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored_in(status), Some(0x1001));
        assert_eq!(ignored_in("Name:\tx\n"), None);
    }
}
