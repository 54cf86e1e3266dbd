//! The largest batch and the longest rows that fit, found by compiling.

use std::ops::Range;
use std::time::Instant;

use super::bound::least_bytes;
use super::compile::Target;
use super::error::Result;
use super::measure::measure;
use super::report::{Bounds, Largest};
use super::{Request, default_prompt_tokens};
use crate::engine::{BatchPrograms, ProgramKey, cache_lengths};
use crate::model::ModelSpec;

/// A search around the sizes of a request, which is known to fit or not to.
pub(super) struct Search<'a> {
    pub target: &'a Target<'a>,
    pub spec: &'a ModelSpec,
    pub request: &'a Request,
    /// Whether the programs of the request fit.
    pub fits: bool,
    /// No compile starts after this.
    pub deadline: Instant,
}

/// The outcome of trying a size.
struct Tried {
    fits: bool,
    /// Bytes that the larger program takes or would take, where that is known.
    bytes: Option<u64>,
}

impl Search<'_> {
    /// Looks for both at the same time: the compiler works on one thread each.
    ///
    /// # Errors
    /// What the compiler says, but for want of memory.
    pub fn run(&self) -> Result<Largest> {
        std::thread::scope(|scope| {
            let length = scope.spawn(|| self.longest());
            let batch_size = self.largest_batch()?;
            let max_length = length
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(Largest {
                batch_size,
                max_length,
            })
        })
    }

    fn over(&self) -> bool {
        Instant::now() > self.deadline
    }

    /// The most rows, in steps of one a group of the data axis.
    fn largest_batch(&self) -> Result<Bounds> {
        let groups = self.spec.mesh.data;
        let length = self.request.max_length;
        let asked = self.request.batch_size.div_ceil(groups);
        // More rows than this do not fit whatever the programs need in addition to parameters and
        // caches.
        let mut too_large = 1;
        while self.may_fit(too_large * groups, length) && too_large < MOST_ROWS {
            too_large *= 2;
        }
        let found = self.boundary(
            self.known(asked, too_large),
            |rows| rows as f64,
            |rows| self.programs(rows * groups, length),
        )?;
        Ok(Bounds {
            fits: found
                .fits
                .filter(|&rows| rows > 0)
                .map(|rows| rows * groups),
            too_large: found.too_large.map(|rows| rows * groups),
            exact: found.exact,
        })
    }

    /// The longest rows, of the lengths that caches come in.
    fn longest(&self) -> Result<Bounds> {
        let lengths = cache_lengths(self.spec.config.max_position_embeddings());
        let batch = self.request.batch_size;
        // Index 0 is no length at all, which fits; the one after the last is more than the model
        // has positions for.
        let at = |index: usize| lengths.get(index.wrapping_sub(1)).copied();
        let end = lengths.len() + 1;
        let too_large = (1..end)
            .find(|&index| at(index).is_some_and(|length| !self.may_fit(batch, length)))
            .unwrap_or(end);
        let cache = self.programs(batch, self.request.max_length).decode.cache;
        let asked = lengths.partition_point(|&length| length < cache) + 1;
        let found = self.boundary(
            self.known(asked, too_large),
            |index| at(index).unwrap_or(0) as f64,
            |index| self.programs(batch, at(index).unwrap_or(0)),
        )?;
        Ok(Bounds {
            fits: found.fits.and_then(at),
            too_large: found.too_large.and_then(at),
            exact: found.exact,
        })
    }

    /// The range in which the boundary lies, where the request asked for `asked` and `too_large` is
    /// known not to fit.
    fn known(&self, asked: usize, too_large: usize) -> Range<usize> {
        if self.fits {
            asked..too_large.max(asked + 1)
        } else {
            0..too_large.min(asked)
        }
    }

    fn limit(&self) -> Option<u64> {
        self.target.memory_limit()
    }

    fn programs(&self, batch: usize, length: usize) -> BatchPrograms {
        let prompt = match self.request.prompt_tokens {
            Some(tokens) => tokens.min(length.saturating_sub(1)).max(1),
            None => default_prompt_tokens(length),
        };
        self.request
            .programs(self.spec, batch, prompt, length.saturating_sub(prompt))
    }

    /// Whether parameters and caches alone fit.
    fn may_fit(&self, batch: usize, length: usize) -> bool {
        let least = least_bytes(self.spec, &self.programs(batch, length));
        self.limit().is_none_or(|limit| least <= limit)
    }

    /// The boundary in a range whose start is known to fit and whose end is known not to. First
    /// that of the decode programs alone, which take all caches and are compiled in seconds; then
    /// that of all programs below it, which is the same one or close to it.
    fn boundary(
        &self,
        range: Range<usize>,
        size: impl Fn(usize) -> f64,
        programs: impl Fn(usize) -> BatchPrograms,
    ) -> Result<Bounds> {
        let decode_fits = |at: usize| {
            let decode = programs(at).decode;
            self.attempt([ProgramKey::Decode(decode)])
        };
        let all_fit = |at: usize| self.attempt(programs(at).keys());
        let over = || self.over();
        let (start, limit) = (range.start, self.limit());
        let decode = bisect(range, None, limit, &size, decode_fits, over)?;
        let (Some(fits), Some(too_large)) = (decode.fits, decode.too_large) else {
            return Ok(decode);
        };
        bisect(start..too_large, Some(fits), limit, &size, all_fit, over)
    }

    /// Compiles programs until one does not fit.
    fn attempt(&self, keys: impl IntoIterator<Item = ProgramKey>) -> Result<Tried> {
        let mut bytes = None;
        for key in keys {
            let measured = measure(self.target, self.spec, key)?;
            bytes = bytes.max(measured.bytes());
            if measured.fits().is_none() {
                return Ok(Tried { fits: false, bytes });
            }
        }
        Ok(Tried { fits: true, bytes })
    }
}

/// More rows than any device is asked for.
const MOST_ROWS: usize = 1 << 16;

/// The boundary between what fits and what does not, in a range whose start is taken to fit and
/// whose end is taken not to. `first` is tried first. `size` says what memory is proportional to:
/// the next index tried is the one at which what is known so far would reach the limit. Ends early
/// where it is `over`.
fn bisect(
    range: Range<usize>,
    mut first: Option<usize>,
    limit: Option<u64>,
    size: &impl Fn(usize) -> f64,
    attempt: impl Fn(usize) -> Result<Tried>,
    over: impl Fn() -> bool,
) -> Result<Bounds> {
    let Range {
        start: mut fits,
        end: mut too_large,
    } = range;
    let (mut below, mut above) = (None, None);
    let mut halve = false;
    while too_large - fits > 1 && !over() {
        let guess = match (below, above, limit) {
            (Some((a, low)), Some((b, high)), Some(limit)) if !halve && high > low => {
                // Between two points of a straight line.
                let part = (limit as f64 - low) / (high - low);
                let reach = a + part * (b - a);
                (fits + 1..too_large).rev().find(|&n| size(n) <= reach)
            }
            _ => None,
        };
        let next = first
            .take()
            .filter(|first| (fits + 1..too_large).contains(first))
            .or(guess)
            .unwrap_or(fits + (too_large - fits) / 2);
        let tried = attempt(next)?;
        // A guess that moves a boundary by one only would continue so: halve then.
        let before = too_large - fits;
        if tried.fits {
            fits = next;
            below = tried.bytes.map(|bytes| (size(next), bytes as f64));
        } else {
            too_large = next;
            above = tried.bytes.map(|bytes| (size(next), bytes as f64));
        }
        halve = !halve && guess.is_some() && too_large - fits > before / 2;
    }
    Ok(Bounds {
        fits: Some(fits),
        too_large: Some(too_large),
        exact: too_large - fits == 1,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Searches for the boundary where 1000 + 30 n passes a limit; gives the bounds and the number
    /// of tries.
    fn search(boundary: usize, end: usize, tries: usize) -> (Bounds, usize) {
        let limit = 1000 + 30 * boundary as u64;
        let count = Cell::new(0);
        let bounds = bisect(
            0..end,
            None,
            Some(limit),
            &|n| n as f64,
            |n| {
                count.set(count.get() + 1);
                let bytes = 1000 + 30 * n as u64;
                Ok(Tried {
                    fits: bytes <= limit,
                    bytes: Some(bytes),
                })
            },
            || count.get() >= tries,
        );
        (bounds.expect("nothing fails"), count.get())
    }

    #[test]
    fn the_boundary_is_found_in_few_tries() {
        for end in [1, 2, 3, 10, 100, 4096] {
            for boundary in [0, 1, 2, 7, 63, 100, 1000, 4095] {
                let (bounds, tries) = search(boundary, end, usize::MAX);
                let expected = boundary.min(end - 1);
                assert_eq!(bounds.fits, Some(expected), "{boundary} of {end}");
                assert_eq!(bounds.too_large, Some(expected + 1));
                assert!(tries <= 2 * (end.ilog2() as usize + 1), "{tries} of {end}");
            }
        }
    }

    #[test]
    fn a_search_that_ends_early_says_between_what() {
        let (bounds, tries) = search(1000, 4096, 2);
        assert_eq!(tries, 2);
        assert!(bounds.fits < Some(1001) && bounds.too_large > Some(1000));
        assert!(bounds.too_large > bounds.fits);
    }
}
