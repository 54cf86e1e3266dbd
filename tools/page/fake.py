"""A fake of the server: the page, a list of models, and streamed replies whose course the last
message of the user chooses. It sends bytes when and how it is told to, which a real server does not.
"""

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "src/serve/page.html"
KEY = "sesame-1234"
MODEL = "gemma-small"
HTML = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script><b>no</b>"
CODE = "Here is **the** `function`:\n\n```python\ndef f(x):\n    return \"<b>\" * x\n```\n\nand " + HTML
CHARACTERS = "Zoë — naïve façade, 日本語のテキスト, 👩‍🚀 and 🇨🇭."


def policy(page):
    """The Content-Security-Policy under which the page has to work."""

    def hashes(tag):
        found = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(found) == 1, f"the page has {len(found)} blocks <{tag}>"
        digest = hashlib.sha256(found[0].encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Fake(ThreadingHTTPServer):
    """What the handler answers, and what it saw."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.page = PAGE.read_text()
        self.models = [MODEL]
        self.key = None
        self.ready = True
        self.requests = []
        self.gone = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, kind="application/json", headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in [("Content-Type", kind), ("Content-Length", len(data)), *headers]:
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message, param=None, headers=()):
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
        self.answer(status, {"error": error}, headers=headers)

    def authorized(self):
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self.refuse(401, "a key is required")
            return False
        return True

    def do_GET(self):
        server = self.server
        if self.path == "/":
            headers = [("Content-Security-Policy", policy(server.page)), ("X-Content-Type-Options", "nosniff")]
            self.answer(200, server.page.encode(), "text/html; charset=utf-8", headers)
        elif self.path == "/v1/models":
            if not server.ready:
                self.refuse(503, "the model is being compiled")
            elif self.authorized():
                models = [{"id": name, "object": "model"} for name in server.models]
                self.answer(200, {"object": "list", "data": models})
        else:
            self.refuse(404, f"no route {self.path}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        if self.path != "/v1/chat/completions":
            return self.refuse(404, f"no route {self.path}")
        if not self.authorized():
            return None
        said = body["messages"][-1]["content"]
        if said == "error 400":
            return self.refuse(400, "must be at most 2, not 3", "temperature")
        if said == "error 429":
            return self.refuse(429, "the queue is full", headers=[("Retry-After", 7)])
        if said == "error 502":
            return self.answer(502, b"<h1>Bad gateway</h1>", "text/html")
        if said == "error 503":
            return self.refuse(503, "the server is shutting down")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.stream(said)
        except OSError:
            self.server.gone.set()
        return None

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, value):
        data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return f"data: {data}\n\n".encode()

    def delta(self, finish=None, **delta):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return self.event({"object": "chat.completion.chunk", "model": MODEL, "choices": [choice], "usage": None})

    def end(self, count, finish="stop"):
        usage = {"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count}
        self.chunk(self.delta(finish))
        self.chunk(self.event({"choices": [], "usage": usage}) + self.event("[DONE]"))
        self.chunk(b"")

    def stream(self, said):
        first = self.delta(role="assistant", content="")
        if said == "characters":
            # A byte at a time, so that every character and every line is split.
            data = b": waiting\r\n\r\n" + first.replace(b"\n", b"\r\n") + self.delta(content=CHARACTERS)
            for byte in data:
                self.chunk(bytes([byte]))
            return self.end(20)
        self.chunk(first)
        if said == "slow":
            for index in range(600):
                self.chunk(self.delta(content=f"word{index} "))
                time.sleep(0.02)
        elif said == "silent":
            for _ in range(300):
                time.sleep(0.05)
                self.chunk(b": waiting\n\n")
        elif said == "error in the stream":
            self.chunk(self.delta(content="half a re"))
            self.chunk(self.event({"error": {"message": "the device failed", "type": "server_error"}}))
            return self.chunk(b"")
        elif said == "cut":
            self.chunk(self.delta(content="half a re"))
            return self.chunk(b"")
        elif said == "no json":
            self.chunk(self.event("{"))
            return self.chunk(b"")
        text = CODE if said == "code" else f"You said: {said}. " + "It is a truth universally acknowledged. " * 3
        pieces = re.findall(r"\S+\s*", text)
        for piece in pieces:
            self.chunk(self.delta(content=piece))
            time.sleep(0.01)
        return self.end(len(pieces), "length" if said == "length" else "stop")
