"""A hub on 127.0.0.1: the endpoints that ModelScope's and Hugging Face's clients use, and faults on order."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from .local import Quiet, listening

MODEL = "course/tiny-r1"  # as which a lesson's hub serves its folder; it answers to any name
REVISION = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"<!DOCTYPE html><html><body>Please log in to this network.</body></html>"


class FakeHub:
    """A repository and what goes wrong with it.

    ``faults[name]`` is a list: each request for the content takes one. ``lies[name]`` replaces ``name``, ``size``
    or ``sha256`` in the list, ``answer`` the whole list. ``log`` holds (path, Range header).
    """

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.faults: dict[str, list[str]] = {}
        self.lies: dict[str, dict[str, object]] = {}
        self.answer: bytes | None = None
        self.listing_faults: list[str] = []
        self.log: list[tuple[str, str | None]] = []
        self.ended = threading.Event()
        self.url = ""

    @classmethod
    def of_folder(cls, folder: Path) -> "FakeHub":
        """The files of a folder that are not hidden."""
        return cls({f.name: f.read_bytes() for f in sorted(folder.glob("[!.]*")) if f.is_file()})

    @property
    def asked(self) -> list[tuple[str, int]]:
        """(name, first byte) of each file's content that was asked for, in order."""
        starts = ((name, wanted or "bytes=0-") for name, wanted in self.log)
        return [(name, int(wanted.removeprefix("bytes=").split("-")[0])) for name, wanted in starts]

    def ranges(self, name: str) -> list[str | None]:
        """The Range headers with which the content of ``name`` was asked for."""
        return [r for path, r in self.log if path == name]

    @contextmanager
    def serving(self) -> Iterator["FakeHub"]:
        """It runs for as long as the ``with`` lasts."""
        with listening(type("Bound", (Handler,), {"hub": self})) as port:
            self.url = f"http://127.0.0.1:{port}"
            try:
                yield self
            finally:
                self.ended.set()


@contextmanager
def serve(hub: FakeHub) -> Iterator[None]:
    """Run ``hub``, and lead ModelScope's client there, for as long as the ``with`` lasts."""
    with hub.serving():
        ours = {"MODELSCOPE_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        ours |= {"MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "1"}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


class Handler(Quiet):
    """One request."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        if path.startswith("/api/v1/models/") and path.endswith("/repo/files"):
            self.listing(self.modelscope_list)
        elif path.startswith("/api/v1/models/") and path.endswith("/repo"):
            self.content(query["FilePath"][0], body)
        elif path.startswith("/blob/"):
            self.content(path.removeprefix("/blob/"), body, elsewhere=True)
        elif path.startswith("/api/models/") and "/tree/" in path:
            self.json([self.hf_row(name) | {"type": "file", "path": name} for name in self.hub.files])
        elif path.startswith("/api/models/"):
            self.listing(self.hf_list)
        elif "/resolve/" in path:
            self.content(path.split("/resolve/", 1)[1].split("/", 1)[1], body)
        else:
            self.send(404, b'{"Code": 404, "Message": "not found", "Success": false}', body, "application/json")

    # ---- lists

    def listing(self, rows: Callable[[], dict]) -> None:
        fault = self.hub.listing_faults.pop(0) if self.hub.listing_faults else None
        if fault == "html":
            self.send(200, PAGE, True, "text/html")
        elif fault:
            self.send(int(fault), b"{}", True, "application/json")
        elif self.hub.answer is not None:
            self.send(200, self.hub.answer, True, "application/json")
        else:
            self.json(rows())

    def modelscope_list(self) -> dict:
        files = []
        for name, data in self.hub.files.items():
            row = {"name": name, "size": len(data), "sha256": sha256(data)} | self.hub.lies.get(name, {})
            row = {"Path": row["name"], "Name": row["name"], "Size": row["size"], "Sha256": row["sha256"]}
            files.append(row | {"Type": "blob", "Revision": REVISION})
        return {"Code": 200, "Success": True, "Message": "success", "Data": {"Files": files}}

    def hf_list(self) -> dict:
        rows = []
        for name in self.hub.files:
            lie = self.hub.lies.get(name, {})
            row = self.hf_row(name) | {"rfilename": lie.get("name", name)}
            row["size"] = lie.get("size", row["size"])
            if "sha256" in lie:
                row["lfs"] = row.get("lfs", {"size": row["size"], "pointerSize": 134}) | {"sha256": lie["sha256"]}
            rows.append(row)
        return {"id": "owner/model", "modelId": "owner/model", "sha": REVISION, "siblings": rows, "tags": []}

    def hf_row(self, name: str) -> dict:
        data = self.hub.files[name]
        row = {"size": len(data), "blobId": git_sha1(data), "oid": git_sha1(data)}
        if name.endswith(".safetensors"):
            row["lfs"] = {"sha256": sha256(data), "oid": sha256(data), "size": len(data), "pointerSize": 134}
        return row

    # ---- content

    def content(self, name: str, body: bool, elsewhere: bool = False) -> None:
        data = self.hub.files.get(name)
        if data is None:
            self.send(404, b"{}", body, "application/json")
            return
        wanted = self.headers.get("Range")
        lfs = name.endswith(".safetensors")
        headers = {"ETag": f'"{sha256(data) if lfs else git_sha1(data)}"', "X-Repo-Commit": REVISION}
        fault = None
        if body:
            self.hub.log.append((name, wanted))
            faults = self.hub.faults.get(name)
            if faults and not elsewhere:
                fault = faults.pop(0)
        if fault in ("404", "429", "503"):
            self.send(int(fault), b"{}", body, "application/json", {"Retry-After": "0"})
        elif fault == "redirect":
            port = self.server.server_port
            self.send(302, b"", body, "text/plain", headers | {"Location": f"http://localhost:{port}/blob/{name}"})
        elif fault == "html":
            self.send(200, PAGE, body, "text/html", headers)
        elif fault == "pointer":
            text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n"
            self.send(200, text.encode(), body, "text/plain", headers)
        elif fault == "short":
            self.send(200, data[:-1000], body, "application/octet-stream", headers)
        else:
            if fault == "flip":
                data = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
            self.range(data, wanted, body, headers, fault)

    def range(self, data: bytes, wanted: str | None, body: bool, headers: dict, fault: str | None) -> None:
        start, status = 0, 200
        if wanted and fault != "flip":
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), int(last) + 1 if last else len(data)
            headers = headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            data, status = data[start:stop], 206
        pieces, length = [data], len(data)
        if fault in ("cut", "hang"):
            pieces = [data[: len(data) // 2]]
        elif fault == "drip":
            step = max(len(data) // 8, 1)
            pieces = [data[i : i + step] for i in range(0, len(data), step)]
        elif fault == "long":
            length += 5000
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(length), "Accept-Ranges": "bytes"}).items():
            self.send_header(key, value)
        self.end_headers()
        for piece in pieces if body else []:
            self.wfile.write(piece)
            self.wfile.flush()
            if fault == "drip":
                time.sleep(0.1)
        if fault == "hang":
            self.hub.ended.wait(30)
        if fault in ("cut", "long", "hang"):
            self.close_connection = True

    def json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), True, "application/json", {"X-Repo-Commit": REVISION})

    def send(self, status: int, data: bytes, body: bool, kind: str, headers: dict | None = None) -> None:
        self.send_response(status)
        for key, value in ((headers or {}) | {"Content-Type": kind, "Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
