"""Serves a single page, and brings the questions that it sends to the thread of the model."""

import json
import secrets
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from detox_lightning.errors import InputError

PORTS = 5  # that are tried, from the one that is named
MAX_BYTES = 2**16  # of a question


class PageServer(ThreadingHTTPServer):
    """Serves one page. Each connection has a thread, and waits there for its answer.

    All answers come from the thread that calls :meth:`serve`, one after the other: it holds the
    model, and precision, gradients and the current device are settings of a thread.

    Attributes:
        token: What a question must bring along; only a script that can read the page knows it.
        names: Names that requests may ask for; None: any. Another site's name may lead here, too,
            and its scripts could then read the page.
    """

    def __init__(self, host: str, port: int):
        for number in range(port, port + PORTS):
            try:
                super().__init__((host, number), Handler)
                break
            except (OSError, OverflowError) as error:
                reason = error
        else:
            raise InputError(
                f"--host={host} --port={port}: no page can be served there ({reason}); give an "
                "address of this machine, and a free port (0: any)"
            )
        address = str(self.server_address[0])
        self.names = {address, "localhost", "127.0.0.1"} if address.startswith("127.") else None
        self.url = f"http://{address}:{self.server_port}/"
        self.token, self.page = secrets.token_urlsafe(), ""
        self.questions: SimpleQueue[tuple[bytes, Future[dict[str, str]]]] = SimpleQueue()

    def serve(self, page: str, answer: Callable[[bytes], dict[str, str]]) -> None:
        """Serves a page, and answers the questions that it sends, in this thread, until Ctrl-C."""
        self.page = page
        Thread(target=self.serve_forever, args=[0.05], daemon=True).start()
        try:
            while True:
                with suppress(Empty):  # a signal just before an endless wait wouldn't end it
                    question, reply = self.questions.get(timeout=0.5)
                    reply.set_result(answer(question))
        except KeyboardInterrupt:
            self.shutdown()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints an error, unless a browser has closed its connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one request; no part of it is taken for the name of a file."""

    server: PageServer

    def do_GET(self) -> None:
        """Sends the page, or says why not."""
        problem = self._misplaced("/")
        self._send("text/html", problem or self.server.page, not problem)

    def do_POST(self) -> None:
        """Sends the answer to a question, or ``{"error": …}``."""
        size, token = self.headers.get("Content-Length", ""), self.headers.get("X-Token", "")
        length = int(size[:9]) if size.isdecimal() else 0
        body = self.rfile.read(min(length, 8 * MAX_BYTES))  # so that the sender hears why not
        problem, reply = self._misplaced("/answers"), Future[dict[str, str]]()
        if not problem and not secrets.compare_digest(token.encode(), self.server.token.encode()):
            problem = "this page is from an earlier start: load it again"
        elif not problem and self.headers.get_content_type() != "application/json":
            problem = "a question must be application/json"
        elif not problem and length > MAX_BYTES:
            problem = f"the text is too long: {length:,} bytes, at most {MAX_BYTES:,}"
        if not problem:
            self.server.questions.put((body, reply))
        answer = {"error": problem} if problem else reply.result()
        self._send("application/json", json.dumps(answer), not problem)

    def _misplaced(self, path: str) -> str:
        """Says where the page is if a request looks for another name or path; else nothing."""
        name, names = self.headers.get("Host", "").partition(":")[0].lower(), self.server.names
        is_here = self.path == path and (names is None or name in names)
        return "" if is_here else f"there is only {self.server.url}"

    def _send(self, kind: str, text: str, is_fine: bool) -> None:
        self.send_response(200 if is_fine else 403)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(text.encode("utf8"))

    def log_message(self, format: str, *args: Any) -> None:
        """Prints no line for each request."""
