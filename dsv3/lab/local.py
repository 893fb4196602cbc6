"""What the lab's servers share: a port of this machine, and one handler for each request."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Quiet(BaseHTTPRequestHandler):
    """One request, without a line in the log."""

    server: ThreadingHTTPServer

    def log_message(self, *_: object) -> None:
        """No line for each request."""


class Server(ThreadingHTTPServer):
    """A thread for each request."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say what went wrong, but not that a client has hung up: that is its right."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typeshed names private types


@contextmanager
def listening(handler: type[Quiet]) -> Iterator[int]:
    """Answer requests on 127.0.0.1 for as long as the ``with`` lasts -> the port."""
    server = Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
