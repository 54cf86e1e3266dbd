"""Makes the samples beside this file with Flax itself (flax 0.10.7, jax 0.6.2, numpy 2.3.5).

Every array counts from 0 in its own dtype, so a reader knows each value from its position.
"""

import pathlib

import jax.numpy as jnp
import numpy as np
from flax import serialization

HERE = pathlib.Path(__file__).parent


def count(shape, dtype):
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def tree():
    return {
        "model": {
            "embed_tokens": {"embedding": count((5, 8), np.float32)},
            "layers": [
                {"kernel": count((3, 4), jnp.bfloat16), "bias": count((4,), np.float16)},
                {"kernel": count((4, 3), jnp.bfloat16), "empty": count((0, 7), np.float32)},
            ],
            "norm": {"zero_dimensional": count((), np.float32), "scalar": np.float16(0)},
        }
    }


def main():
    (HERE / "nested.msgpack").write_bytes(serialization.to_bytes(tree()))
    flat = {
        "model/embed_tokens/embedding": count((5, 8), np.float32),
        "model/norm/weight": count((300,), jnp.bfloat16),
    }
    (HERE / "flat.msgpack").write_bytes(serialization.to_bytes(flat))
    # Flax cuts arrays above 2^30 bytes; a smaller limit makes the same form in a small file.
    serialization.MAX_CHUNK_SIZE = 48
    (HERE / "chunked.msgpack").write_bytes(serialization.to_bytes(tree()))


if __name__ == "__main__":
    main()
