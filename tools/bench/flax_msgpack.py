"""Reads a Flax msgpack checkpoint tensor by tensor: an index of where each one's bytes lie, and the bytes when they are wanted.

Enough of msgpack for what flax.serialization.to_bytes writes. Needs the standard library alone; arrays come as bytes.
"""

import struct
from typing import NamedTuple

CHUNKED = "__msgpack_chunked_array__"


class Leaf(NamedTuple):
    """An array: its shape, its dtype's name, and the (offset, length) of each stretch of its bytes, in order."""

    shape: tuple
    dtype: str
    stretches: list


class Reader:
    def __init__(self, file):
        self.file = file

    def number(self, form):
        return struct.unpack(form, self.file.read(struct.calcsize(form)))[0]

    def item(self):
        """The next item; of byte strings only (offset, length)."""
        tag = self.number("B")
        if tag < 0x80:
            return tag
        if tag < 0x90:
            return self.map(tag & 0x0F)
        if tag < 0xA0:
            return [self.item() for _ in range(tag & 0x0F)]
        if tag < 0xC0:
            return self.file.read(tag & 0x1F).decode()
        if tag in (0xC2, 0xC3):
            return tag == 0xC3
        if tag in (0xC4, 0xC5, 0xC6):
            return self.skip(self.number({0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}[tag]))
        if tag in (0xC7, 0xC8, 0xC9):
            self.number({0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}[tag])
            return self.array()
        if tag in (0xCC, 0xCD, 0xCE, 0xCF):
            return self.number({0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}[tag])
        if tag in (0xD9, 0xDA, 0xDB):
            return self.file.read(self.number({0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}[tag])).decode()
        if tag in (0xDC, 0xDD):
            return [self.item() for _ in range(self.number({0xDC: ">H", 0xDD: ">I"}[tag]))]
        if tag in (0xDE, 0xDF):
            return self.map(self.number({0xDE: ">H", 0xDF: ">I"}[tag]))
        raise ValueError(f"msgpack marker {tag:#x} at byte {self.file.tell() - 1}: not in a Flax checkpoint")

    def map(self, size):
        found = {}
        for _ in range(size):
            name = self.item()
            found[name] = self.item()
        if CHUNKED not in found:
            return found
        shape = tuple(found["shape"][str(i)] for i in range(len(found["shape"])))
        chunks = [found["chunks"][str(i)] for i in range(len(found["chunks"]))]
        return Leaf(shape, chunks[0].dtype, [part for chunk in chunks for part in chunk.stretches])

    def skip(self, length):
        start = self.file.tell()
        self.file.seek(length, 1)
        return start, length

    def array(self):
        kind = self.number("b")
        if kind != 1:
            raise ValueError(f"msgpack extension {kind} at byte {self.file.tell()}: not an array")
        shape, dtype, stretch = self.item()
        return Leaf(tuple(shape), dtype, [stretch])


def index(path):
    """The tree of a checkpoint file: nested dictionaries with a Leaf for each array."""
    with open(path, "rb") as file:
        return Reader(file).item()


def leaves(tree, prefix=()):
    """Each leaf with its path in the tree, a tuple of names."""
    for name, child in tree.items():
        if isinstance(child, Leaf):
            yield (*prefix, name), child
        else:
            yield from leaves(child, (*prefix, name))


def read_bytes(path, leaf):
    """The bytes of a leaf."""
    with open(path, "rb") as file:
        parts = []
        for start, length in leaf.stretches:
            file.seek(start)
            parts.append(file.read(length))
    return parts[0] if len(parts) == 1 else b"".join(parts)
