//! JAX's random keys: threefry2x32, `PRNGKey`, `split` and `fold_in`, with
//! `jax_threefry_partitionable` on, its default since 0.5.

/// The rotations of each round, four by four in turn.
const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
/// Mixed into the key's third word.
const PARITY: u32 = 0x1BD1_1BDA;

/// Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
/// 2011): the hash of a 64-bit counter, high half first, under a key.
pub fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let schedule = [key[0], key[1], key[0] ^ key[1] ^ PARITY];
    let mut x = counter[0].wrapping_add(schedule[0]);
    let mut y = counter[1].wrapping_add(schedule[1]);
    for group in 0..5_usize {
        for rotation in ROTATIONS[group % 2] {
            x = x.wrapping_add(y);
            y = y.rotate_left(rotation) ^ x;
        }
        x = x.wrapping_add(schedule[(group + 1) % 3]);
        y = y
            .wrapping_add(schedule[(group + 2) % 3])
            .wrapping_add(group as u32 + 1);
    }
    [x, y]
}

/// A random key, the two words that JAX's raw keys have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub [u32; 2]);

impl Key {
    /// `jax.random.PRNGKey(seed)`.
    ///
    /// JAX has no 64-bit integers unless they are turned on, and then takes a seed's low 32 bits
    /// alone: seeds that differ only above them give the same key, here as there.
    pub fn from_seed(seed: u64) -> Self {
        Self([0, seed as u32])
    }

    /// Half `index` of `jax.random.split(self, n)`, for any n above `index`.
    pub fn part(self, index: u64) -> Self {
        Self(threefry2x32(self.0, halves(index)))
    }

    /// `jax.random.split(self)`.
    pub fn split(self) -> [Self; 2] {
        [self.part(0), self.part(1)]
    }

    /// `jax.random.fold_in(self, data)`.
    pub fn fold_in(self, data: u32) -> Self {
        Self(threefry2x32(self.0, Self::from_seed(u64::from(data)).0))
    }

    /// The 32 random bits at a row-major `index` of `jax.random.bits(self, shape)`, whatever the
    /// shape.
    pub fn bits(self, index: u64) -> u32 {
        let [x, y] = threefry2x32(self.0, halves(index));
        x ^ y
    }

    /// The keys that draw the new tokens of Flax's `generate(…, prng_key=self)`, the one after the
    /// prompt first.
    pub fn steps(self) -> StepKeys {
        StepKeys { next: self }
    }
}

/// The keys of a generation's steps: each step splits the key that it was given, draws with the
/// first part and hands on the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepKeys {
    next: Key,
}

impl StepKeys {
    /// The key that the next step splits: what goes on from here is `state().steps()`.
    pub fn state(&self) -> Key {
        self.next
    }
}

impl Iterator for StepKeys {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        let [drawn, next] = self.next.split();
        self.next = next;
        Some(drawn)
    }
}

fn halves(index: u64) -> [u32; 2] {
    [(index >> 32) as u32, index as u32]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        keys: Vec<KeyVector>,
        hashes: Vec<HashVector>,
        noise: Vec<NoiseVector>,
    }

    #[derive(Deserialize)]
    struct KeyVector {
        seed: String,
        key: [u32; 2],
        split: [[u32; 2]; 2],
        split_5: [[u32; 2]; 5],
        fold_in: Vec<(u32, [u32; 2])>,
        step_keys: Vec<[u32; 2]>,
    }

    #[derive(Deserialize)]
    struct HashVector {
        key: [u32; 2],
        counter: [u32; 2],
        hash: [u32; 2],
    }

    #[derive(Deserialize)]
    struct NoiseVector {
        key: [u32; 2],
        shape: Vec<u64>,
        bits_8: Vec<Vec<u8>>,
        bits_32: Vec<Vec<u32>>,
    }

    fn vectors() -> Vectors {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sampling/vectors.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    #[test]
    fn the_hash_is_jaxs() {
        let vectors = vectors().hashes;
        assert!(vectors.len() >= 8);
        for HashVector { key, counter, hash } in vectors {
            assert_eq!(threefry2x32(key, counter), hash);
        }
    }

    #[test]
    fn keys_of_seeds_their_parts_and_folds_are_jaxs() {
        let vectors = vectors().keys;
        assert!(vectors.len() >= 7);
        for vector in vectors {
            let key = Key::from_seed(vector.seed.parse().unwrap());
            assert_eq!(key.0, vector.key, "{}", vector.seed);
            assert_eq!(key.split().map(|key| key.0), vector.split);
            for (index, part) in vector.split_5.into_iter().enumerate() {
                assert_eq!(key.part(index as u64).0, part);
            }
            assert!(!vector.fold_in.is_empty());
            for (data, folded) in vector.fold_in {
                assert_eq!(key.fold_in(data).0, folded, "{} {data}", vector.seed);
            }
            let steps: Vec<_> = key.steps().take(4).map(|key| key.0).collect();
            assert_eq!(steps, vector.step_keys);
        }
    }

    #[test]
    fn steps_go_on_from_their_state() {
        let mut steps = Key::from_seed(7).steps();
        let behind: Vec<_> = steps.clone().skip(3).take(3).collect();
        steps.nth(2);
        assert_eq!(steps.state().steps().take(3).collect::<Vec<_>>(), behind);
    }

    #[test]
    fn bits_are_jaxs_in_every_shape() {
        let vectors = vectors().noise;
        assert!(vectors.iter().any(|vector| vector.shape[0] > 1));
        for vector in vectors {
            let count: u64 = vector.shape.iter().product();
            let bits: Vec<_> = (0..count)
                .map(|index| Key(vector.key).bits(index))
                .collect();
            assert_eq!(bits, vector.bits_32.concat());
            let low: Vec<_> = bits.iter().map(|&bits| bits as u8).collect();
            assert_eq!(low, vector.bits_8.concat());
        }
    }
}
