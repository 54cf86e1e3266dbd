//! Lengths are rounded up to few sizes, so that few programs are compiled.

/// The shortest prompt program.
const SHORTEST_PROMPT: usize = 16;
/// The shortest cache.
const SHORTEST_CACHE: usize = 64;

/// The length that a prompt of `tokens` is padded to: the next power of two, at least 16.
pub fn prompt_bucket(tokens: usize) -> usize {
    tokens.max(SHORTEST_PROMPT).next_power_of_two()
}

/// The length of a cache that must hold `tokens`: the next power of two or three quarters of it, at least 64.
/// The finer steps matter here since every decode step reads the whole cache.
pub fn cache_bucket(tokens: usize) -> usize {
    let power = tokens.max(SHORTEST_CACHE).next_power_of_two();
    let smaller = power / 4 * 3;
    if smaller >= tokens.max(SHORTEST_CACHE) {
        smaller
    } else {
        power
    }
}

/// The lengths that caches come in, for models of that many positions, the shortest first.
pub fn cache_lengths(positions: usize) -> Vec<usize> {
    std::iter::successors(Some(cache_bucket(1)), |&length| {
        Some(cache_bucket(length + 1))
    })
    .take_while(|&length| length <= positions)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_are_for_and_waste_little() {
        for tokens in 1..5000 {
            let (prompt, cache) = (prompt_bucket(tokens), cache_bucket(tokens));
            assert!(prompt >= tokens && cache >= tokens);
            assert!(prompt < 2 * tokens.max(SHORTEST_PROMPT));
            assert!(2 * cache < 3 * tokens.max(SHORTEST_CACHE) + 2);
        }
    }

    #[test]
    fn the_lengths_of_caches_are_those_that_tokens_are_rounded_to() {
        let distinct: std::collections::BTreeSet<_> = (1..=8192).map(cache_bucket).collect();
        assert!(distinct.into_iter().eq(cache_lengths(8192)));
        assert!(cache_lengths(63).is_empty());
    }

    #[test]
    fn buckets_are_few() {
        let distinct: std::collections::BTreeSet<_> = (1..=8192).map(cache_bucket).collect();
        assert!(distinct.len() <= 15, "{distinct:?}");
    }
}
