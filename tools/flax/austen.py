"""The training text: Jane Austen's six novels (published 1811 to 1818, in the public domain) as short passages.

They come from Debian's package r-cran-janeaustenr 1.0.0-1, which holds them as an R data file; neither R nor root is needed
to read it. The text is not part of this repository.
"""

import hashlib
import re
import subprocess
import tempfile
import zlib
from pathlib import Path

PACKAGE, VERSION = "r-cran-janeaustenr", "1.0.0-1"
DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
SHA256 = "8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21"
PASSAGE_CHARACTERS = 240


def download():
    """Fetches the package with apt-get, unpacks it, and returns the novels, each a list of its lines."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-q", f"{PACKAGE}={VERSION}"], cwd=folder, check=True)
        package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        data = (Path(folder) / DATA).read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{PACKAGE} {VERSION}: its data is not what this script was written for")
    return read_rdb(data)


def read_rdb(data):
    """The character vectors of an R lazy-load data file: zlib streams behind a length, each one serialized object."""
    novels = []
    while data:
        stream = zlib.decompressobj()
        novels.append(read_strings(stream.decompress(data[4:])))
        data = stream.unused_data
    return novels


def read_strings(blob):
    """One character vector in R's XDR serialization, version 3."""

    def number(at):
        return int.from_bytes(blob[at : at + 4], "big", signed=True)

    # "X\n", format version, two R versions, the encoding's length and name, then the vector's flags and length.
    if blob[:2] != b"X\n" or number(2) != 3:
        raise SystemExit("R data of an unknown form")
    at = 18 + number(14)
    if number(at) & 0xFF != 16:
        raise SystemExit("R data that is no character vector")
    count, at = number(at + 4), at + 8
    lines = []
    for _ in range(count):
        length = number(at + 4)
        lines.append(blob[at + 8 : at + 8 + length].decode("utf-8"))
        at += 8 + length
    return lines


def passages(lines):
    """Lines of prose to passages: whole sentences of one paragraph, up to about 240 characters together."""
    found = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        text = re.sub(r"\s+", " ", paragraph.replace("_", "")).strip()
        # Headings, dates and other short lines are not prose.
        if len(text) < 40 or text.upper() == text:
            continue
        passage = ""
        for sentence in re.split(r"(?<=[.!?])\s+(?=[\"A-Z])|(?<=[.!?]\")\s+(?=[\"A-Z])", text):
            if passage and len(passage) + len(sentence) > PASSAGE_CHARACTERS:
                found.append(passage)
                passage = ""
            passage = f"{passage} {sentence}".strip()
        found.append(passage)
    return found
