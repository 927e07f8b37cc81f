"""AWS's instance metadata service for tests, version 2: a token first, and then the notice of a spot instance."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Metadata(http.server.BaseHTTPRequestHandler):
    """`notices` are by the address of the machine that asks, `tokens` those that are valid."""

    notices: dict[str, str] = {}
    tokens: set[str] = set()

    def do_PUT(self) -> None:
        token = f"token {time.monotonic_ns()}"
        self.tokens.add(token)
        self.answer(200, token)

    def do_GET(self) -> None:
        notice = self.notices.get(self.client_address[0])
        if self.headers["X-aws-ec2-metadata-token"] not in self.tokens:
            self.answer(401, "")
        elif self.path == "/latest/meta-data/spot/instance-action" and notice:
            self.answer(200, notice)
        else:
            self.answer(404, "")

    def answer(self, code: int, body: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(address: str, port: int = 0) -> Iterator[str]:
    """The service at an address, without notices and tokens; its URL."""
    Metadata.notices.clear()
    Metadata.tokens.clear()
    server = http.server.ThreadingHTTPServer((address, port), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{address}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
