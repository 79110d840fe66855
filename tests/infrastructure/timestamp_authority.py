"""A timestamp authority (RFC 3161) on the loopback interface, which `openssl ts` answers for."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = """
[req]
distinguished_name = name
[name]
[tsa]
default_tsa = authority
[authority]
serial = {folder}/serial
signer_cert = {folder}/cert.pem
signer_key = {folder}/key.pem
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = {digests}
ess_cert_id_alg = sha256
"""


@dataclass(frozen=True)
class Authority:
    """A running authority."""

    url: str
    roots: Path
    """Its self-signed certificate (PEM)."""


@contextmanager
def timestamp_authority(
    folder: Path, *, status: int = 200, digests: str = "sha256"
) -> Iterator[Authority]:
    """Run an authority that keeps its key in a folder. It accepts hashes of these kinds."""
    config, roots = folder / "tsa.cnf", folder / "cert.pem"
    config.write_text(CONFIG.format(folder=folder, digests=digests))
    (folder / "serial").write_text("01\n")
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Test authority"),
        *("-days", "2", "-config", str(config), "-out", str(roots)),
        *("-keyout", str(folder / "key.pem")),
        *("-addext", "extendedKeyUsage=critical,timeStamping"),
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = folder / "query.tsq"
            query.write_bytes(self.rfile.read(int(self.headers["content-length"])))
            content = _openssl(
                *("ts", "-reply", "-config", str(config), "-section", "authority"),
                *("-queryfile", str(query)),
            )
            self.send_response(status)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Authority(f"http://127.0.0.1:{server.server_port}/", roots)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _openssl(*arguments: str) -> bytes:
    done = subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    return done.stdout
