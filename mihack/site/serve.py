"""Serve a folder on this computer alone."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"


class Quiet(SimpleHTTPRequestHandler):
    """Without a line for each request, and with UTF-8 and no caching of what may be built anew."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        """Add what every answer carries."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server for ``folder`` on 127.0.0.1; port 0 takes a free one. Call ``serve_forever`` on it."""
    made = ThreadingHTTPServer((HOST, port), partial(Quiet, directory=str(folder)))
    made.daemon_threads = True
    return made


def url(made: ThreadingHTTPServer) -> str:
    """Where a browser finds it."""
    return f"http://{HOST}:{made.server_address[1]}/"
