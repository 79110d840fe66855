"""A receiver of webhooks: `python -m tests.extensions.notifications.receiver PORT FILE`.

It appends each request to a file before it responds, so that a kill loses nothing that it
accepted. It imports only the standard library, to start fast.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Handler(BaseHTTPRequestHandler):
    """Records requests. The path `/status/<n>` responds with that status.

    With a query `after=<text>`, the response has the text as its header Retry-After.
    """

    file = -1

    def do_POST(self) -> None:
        """Record a request, and respond. Ignore an incomplete one, like every HTTP server."""
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if len(body) < length:  # the sender was killed before it had sent everything
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        line = json.dumps({"path": self.path, "headers": headers, "body": body.decode()})
        os.write(self.file, line.encode() + b"\n")
        path, _, after = self.path.partition("?after=")
        self.send_response(int(path[8:]) if path[:8] == "/status/" else 200)
        if after:
            self.send_header("retry-after", unquote(after))
        self.send_header("location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(b"\x1b[2Jreceived " + b"x" * 2000)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    """A server with room for many connections at the same time."""

    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    Handler.file = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
