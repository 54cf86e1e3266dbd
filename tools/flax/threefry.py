"""JAX's sampling by hand, in numpy alone: threefry2x32, the keys made from it, Gumbel noise, Flax's
logits warpers and the choice.

Written from jax 0.6.2 (`jax/_src/prng.py`, `random.py`, with `jax_threefry_partitionable` on and
`jax_enable_x64` off) and Transformers 4.57.6 (`generation/flax_utils.py`,
`flax_logits_process.py`), so that what the fixtures hold can be computed without JAX. float32 only:
the logarithms differ from XLA's in the last bits.
"""

import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(key, high, low):
    """The hash of a counter in two halves: uint32 arrays of one shape to two of that shape."""
    with np.errstate(over="ignore"):
        first, second = np.uint32(key[0]), np.uint32(key[1])
        schedule = (first, second, first ^ second ^ np.uint32(0x1BD11BDA))
        x, y = np.asarray(high, np.uint32) + schedule[0], np.asarray(low, np.uint32) + schedule[1]
        for group in range(5):
            for rotation in ROTATIONS[group % 2]:
                x = x + y
                y = ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))) ^ x
            x = x + schedule[(group + 1) % 3]
            y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
        return x, y


def prng_key(seed):
    """`jax.random.PRNGKey(seed)`: without 64-bit types a seed is cut to its low 32 bits."""
    return (0, seed & 0xFFFFFFFF)


def split(key, count=2):
    """`jax.random.split`: key i is the hash of the 64-bit counter i."""
    high, low = threefry2x32(key, np.zeros(count, np.uint32), np.arange(count, dtype=np.uint32))
    return [(int(a), int(b)) for a, b in zip(high, low)]


def fold_in(key, data):
    """`jax.random.fold_in`: the hash of `PRNGKey(data)`, taken as a counter."""
    high, low = threefry2x32(key, np.uint32([0]), np.uint32([data]))
    return int(high[0]), int(low[0])


def random_bits(key, shape):
    """32 random bits for each place: the two halves of the hash of its row-major index, xor-ed."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    high, low = threefry2x32(key, (index >> np.uint64(32)).astype(np.uint32), index.astype(np.uint32))
    return (high ^ low).reshape(shape)


def uniform(key, shape, least):
    """float32 in [least, 1): 23 bits become the mantissa of a number in [1, 2)."""
    bits = (random_bits(key, shape) >> np.uint32(9)) | np.uint32(0x3F800000)
    floats = bits.view(np.float32) - np.float32(1)
    return np.maximum(np.float32(least), floats * (np.float32(1) - np.float32(least)) + np.float32(least))


def gumbel(key, shape):
    """Gumbel noise in float32: at most about 16, since the uniform number has 23 bits."""
    return -np.log(-np.log(uniform(key, shape, np.finfo(np.float32).tiny)))


def warp(logits, temperature=1.0, top_k=50, top_p=1.0):
    """Flax's warpers on float32 logits [rows, vocabulary], in its order; what they drop becomes
    -inf."""
    scores = logits.astype(np.float32)
    if temperature != 1.0:
        scores = scores / np.float32(temperature)
    if top_k:
        # Of equal logits the lower index is the greater, here and below.
        order = np.argsort(-scores, axis=-1, kind="stable")[:, top_k:]
        scores = scores.copy()
        np.put_along_axis(scores, order, -np.inf, -1)
    if top_p < 1.0:
        order = np.argsort(-scores, axis=-1, kind="stable")
        ranked = np.take_along_axis(scores, order, -1)
        mass = np.exp(ranked - ranked[:, :1])
        before = np.cumsum(mass / mass.sum(-1, keepdims=True, dtype=np.float32), axis=-1, dtype=np.float32)
        # A token stays if the mass before it is under top_p; the first always does.
        keep = np.concatenate([np.ones_like(before[:, :1], bool), before[:, :-1] < np.float32(top_p)], -1)
        kept = np.empty_like(scores)
        np.put_along_axis(kept, order, np.where(keep, ranked, -np.inf), -1)
        scores = kept
    return scores


def step_keys(key, steps):
    """The key that draws each new token. Every step splits the key that it was given: the first
    half draws, the second goes on to the next step. The token that follows the prompt is step 0, so
    it takes a split as well."""
    keys = []
    for _ in range(steps):
        drawn, key = split(key)
        keys.append(drawn)
    return keys


def replay(logits, key, **settings):
    """The tokens that Flax samples where its logits are `logits` [steps, rows, vocabulary], as
    [steps, rows], and by how much each was ahead of the second."""
    chosen, margins = [], []
    for scores, drawn in zip(logits, step_keys(key, len(logits))):
        total = warp(scores, **settings) + gumbel(drawn, scores.shape)
        chosen.append(total.argmax(-1))
        best = np.partition(total, -2, -1)[:, -2:]
        margins.append(best[:, 1] - best[:, 0])
    return np.array(chosen), np.array(margins)
