"""A hub on 127.0.0.1 for lesson 02: the three addresses that ModelScope's client asks, and connections that break."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

MODEL = "course/tiny-r1"


@dataclass
class Hub:
    """A folder as ``MODEL`` of a hub.

    Attributes:
        cuts: file name -> how many of its next transfers break off half-way.
        asked: (file name, first byte) of every transfer that was asked for, in order.
    """

    folder: Path
    cuts: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def listing(self) -> dict:
        """The files as ModelScope lists them."""
        files = []
        for file in sorted(self.folder.iterdir()):
            data = file.read_bytes()
            row = {"Path": file.name, "Name": file.name, "Type": "blob", "Revision": "0" * 40}
            files.append(row | {"Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()})
        return {"Code": 200, "Success": True, "Message": "success", "Data": {"Files": files}}


@contextmanager
def serve(hub: Hub) -> Iterator[None]:
    """Answer for ``hub`` on a free port of this machine, and lead ModelScope's client there, for as long as a ``with``
    lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    ours = {"MODELSCOPE_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1"}
    ours |= {"no_proxy": "127.0.0.1", "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Nothing: the lesson prints what was asked."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        name = parse_qs(url.query).get("FilePath", [""])[0]
        if url.path == f"/api/v1/models/{MODEL}/repo/files":
            self.answer(200, json.dumps(self.hub.listing()).encode())
        elif url.path == f"/api/v1/models/{MODEL}/repo" and name in {f.name for f in self.hub.folder.iterdir()}:
            self.file(name)
        else:
            self.answer(404, b'{"Code": 404, "Message": "not found", "Success": false}')

    def file(self, name: str) -> None:
        """The file from the byte on that the client asks for; half of it, if the connection is to break."""
        data = (self.hub.folder / name).read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        extra = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if first:
            extra["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        rest = data[first:]
        if self.command == "GET":
            self.hub.asked.append((name, first))
            if self.hub.cuts.get(name):
                self.hub.cuts[name] -= 1
                extra["Content-Length"] = str(len(rest))
                self.close_connection = True
                rest = rest[: len(rest) // 2]
        self.answer(206 if first else 200, rest, extra)

    def answer(self, status: int, data: bytes, extra: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), "X-Repo-Commit": "0" * 40}
        self.send_response(status)
        for key, value in (headers | (extra or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
