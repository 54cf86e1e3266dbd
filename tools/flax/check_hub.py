#!/usr/bin/env python3
"""Checks that gemma-xla and Python's huggingface_hub share their cache: what one has downloaded, or begun to, the other finds.

usage: check_hub.py GEMMA_XLA CHECKPOINT_FOLDER

A small server, started here, stands for the Hub. Needs huggingface_hub, which Transformers depends on. That writes 10 MiB at a time, so the
checkpoint has to have a file of 25 MB or more for it to leave a beginning behind; tools/random_checkpoint.py makes one.
"""

import hashlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

REPO = "google/gemma-test"
REVISION = "flax"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 20_000

DOWNLOAD = """
import sys, huggingface_hub
print(huggingface_hub.snapshot_download(sys.argv[1], revision=sys.argv[2]))
"""


def etag(content):
    """The Hub's ETag: SHA-256 of a large file, git's name for a small one."""
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(http.server.ThreadingHTTPServer):
    """Serves a folder as a revision of a repository."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.requests = []
        self.pause = 0.0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that are killed are what this is about."""

    def taken(self):
        """The requests for contents since this was last asked: file and first byte."""
        requests, self.requests = self.requests, []
        return requests


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers what downloads ask."""

    def log_message(self, *_):
        """Nothing is logged."""

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(body), 16384):
            self.wfile.write(body[start : start + 16384])
            time.sleep(self.server.pause)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == f"/api/models/{REPO}/revision/{REVISION}":
            files = [{"rfilename": name} for name in self.server.files]
            info = {"id": REPO, "modelId": REPO, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": files}
            self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            return
        found = re.fullmatch(rf"/{REPO}/resolve/({REVISION}|{COMMIT})/([^/]+)", path)
        content = self.server.files.get(found[2]) if found else None
        if content is None:
            self.answer(404, X_Error_Code="EntryNotFound" if found else "RepoNotFound")
            return
        headers = {"ETag": f'"{etag(content)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if self.command == "GET":
            self.server.requests.append((found[2], start))
        if wanted:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206 if wanted else 200, content[start:], **headers)

    do_HEAD = do_GET


class Check:
    """A home folder, and the two that download into it."""

    def __init__(self, hub, binary, home):
        self.hub, self.binary = hub, binary
        self.environment = dict(os.environ, HF_HOME=str(home), HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}")
        for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
            self.environment.pop(name, None)
        self.blobs = home / "hub" / f"models--{REPO.replace('/', '--')}" / "blobs"

    def command(self, who):
        if who == "python":
            return [sys.executable, "-c", DOWNLOAD, REPO, REVISION]
        return [self.binary, "inspect", REPO, "--revision", REVISION, "--json"]

    def run(self, who, offline=False):
        """Downloads, and gives the folder."""
        environment = dict(self.environment, HF_HUB_OFFLINE="1" if offline else "0")
        done = subprocess.run(self.command(who), env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{who} failed: {done.stderr}")
        return done.stdout.strip() if who == "python" else str(pathlib.Path(json.loads(done.stdout)["path"]).parent)

    def kill(self, who):
        """Downloads slowly, and is killed on the way; gives what it left."""
        self.hub.pause = 0.005
        process = subprocess.Popen(self.command(who), env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 60
        while not any(path.stat().st_size > 100_000 for path in self.blobs.glob("*.incomplete")):
            if time.time() > deadline or process.poll() is not None:
                sys.exit(f"{who} left nothing behind")
            time.sleep(0.005)
        process.kill()
        process.wait()
        self.hub.pause = 0.0
        return {path.name: path.stat().st_size for path in self.blobs.glob("*.incomplete")}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    binary, folder = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    hub = Hub(folder)
    for first, second in (("gemma-xla", "python"), ("python", "gemma-xla")):
        with tempfile.TemporaryDirectory() as home:
            check = Check(hub, binary, pathlib.Path(home))
            here = check.run(first)
            taken = hub.taken()
            assert taken, "nothing was downloaded"
            offline = check.run(second, offline=True)
            assert os.path.realpath(offline) == os.path.realpath(here), (offline, here)
            assert not hub.taken(), "an offline run asked the server"
            check.run(second)
            again = [name for name, _ in hub.taken() if name in {name for name, _ in taken}]
            assert not again, f"downloaded again: {again}"
            for name, _ in taken:
                assert (pathlib.Path(offline) / name).read_bytes() == hub.files[name], name
        print(f"{second} finds offline the {len(taken)} files that {first} has downloaded, and downloads none of them again")
        with tempfile.TemporaryDirectory() as home:
            check = Check(hub, binary, pathlib.Path(home))
            left = check.kill(first)
            hub.taken()
            here = check.run(second)
            resumed = [(name, start) for name, start in hub.taken() if start > 0]
            assert resumed, f"{second} did not go on from {left}"
            for name, start in resumed:
                assert (pathlib.Path(here) / name).read_bytes() == hub.files[name], name
        print(f"{second} goes on where {first} was killed: {resumed}")


if __name__ == "__main__":
    main()
