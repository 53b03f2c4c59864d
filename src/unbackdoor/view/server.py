"""The server: Python's own, on this machine's loopback address, for GET and HEAD."""

from __future__ import annotations

import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError, first_line
from unbackdoor.base.untrusted import open_regular
from unbackdoor.view.answers import Answer, answer_to, refusal
from unbackdoor.view.rows import Runs

ADDRESS = "127.0.0.1"
_PIECE = 1 << 20
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves one folder; `server_address` holds the port."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would let two servers share a port

    def __init__(self, folder: Path, port: int) -> None:
        """Begin to listen.

        Args:
            port: 0 takes any that is free.

        Raises:
            InputError: there is no such folder, or the port is taken.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give one that holds runs")
        self.runs = Runs(folder)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise InputError(
                f"port {port} of {ADDRESS}: cannot be listened on ({error.strerror or first_line(error)}); give "
                "another --port, or 0 for any that is free"
            ) from None

    @property
    def url(self) -> str:
        """Where the index is."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Bind without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that hangs up is no error; anything else is a line on stderr, and the server goes on."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            print(f"unbackdoor: a request failed: {type(error).__name__}: {first_line(error)}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30
    server_version, sys_version = "unbackdoor", ""

    def do_GET(self) -> None:
        self._send(answer_to(self.server.runs, self.path, self.headers.get_all("Host", [])), whole=True)

    def do_HEAD(self) -> None:
        self._send(answer_to(self.server.runs, self.path, self.headers.get_all("Host", [])), whole=False)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What Python's server refuses by itself: another method, a torn request. In our words and with our headers."""
        if int(code) == 501:
            answer = refusal(405, "This server is read alone.", Allow="GET, HEAD")
        else:
            answer = refusal(int(code), "This request cannot be understood.")
        self.close_connection = True
        self._send(answer, whole=self.command != "HEAD")

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nobody's business."""

    def _send(self, answer: Answer, whole: bool) -> None:
        if isinstance(answer.content, bytes):
            self._head(answer, len(answer.content))
            if whole:
                self.wfile.write(answer.content)
            return
        try:
            with open_regular(answer.content, inside=self.server.runs.root) as (file, size):
                self._head(answer, size)
                while whole and size > 0 and (piece := file.read(min(size, _PIECE))):
                    self.wfile.write(piece)
                    size -= len(piece)
        except InputError:
            self._send(refusal(404, "There is no such file here."), whole)

    def _head(self, answer: Answer, size: int) -> None:
        self.send_response(answer.status)
        headers = {"Content-Type": answer.kind, "Content-Length": str(size), "Content-Security-Policy": answer.policy}
        for name, value in {**headers, **_ALWAYS, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
