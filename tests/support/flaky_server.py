"""A server on the loopback interface that serves files, and fails in the ways that servers do.

It also answers what the client of the Hugging Face hub asks.
"""

import hashlib
import json
import re
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Fault = Callable[["Handler", bytes], None]
"""Answers one request in its own way; the content is that of the file."""


def status(code: int, **headers: str) -> Fault:
    def answer(handler: "Handler", content: bytes) -> None:
        handler.answer(b"", code=code, **headers)

    return answer


def cut(position: int) -> Fault:
    """Promise the whole content, send it up to a position and hang up."""

    def answer(handler: "Handler", content: bytes) -> None:
        handler.answer(content, sent=content[:position])
        handler.close_connection = True

    return answer


def altered(handler: "Handler", content: bytes) -> None:
    """Send another content of the same length."""
    handler.answer(content, sent=content[:-1] + bytes([content[-1] ^ 1]))


def instead(other: bytes, **headers: str) -> Fault:
    def answer(handler: "Handler", content: bytes) -> None:
        handler.answer(other, **headers)

    return answer


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        """What happens to the next requests for a path; then all is well."""
        self.asked: list[tuple[str, str]] = []
        """Path and range of every request but those of the hub's client for headers."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(
        self, repository: str, files: dict[str, bytes], *, large: tuple[str, ...] = ()
    ) -> None:
        """Serve a repository of the hub; `datasets/` may stand before its name."""
        kind = "" if repository.startswith("datasets/") else "models/"
        siblings = []
        folders: defaultdict[str, dict[str, dict[str, object]]] = defaultdict(dict)
        for name, content in files.items():
            sha = hashlib.sha256(content).hexdigest()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            about = {"rfilename": name, "size": len(content), "blobId": blob}
            if name in large:
                about["lfs"] = {"size": len(content), "sha256": sha, "pointerSize": 134}
            siblings.append(about)
            for revision in ("main", COMMIT):
                path = f"/{repository}/resolve/{revision}/{name}"
                self.files[path] = content
                self.etags[path] = sha if name in large else blob
            folder = name.rpartition("/")[0]
            listed = {"type": "file", "path": name, "size": len(content), "oid": blob}
            folders[folder][name] = listed
            if folder:  # one level is enough
                folders[""][folder] = {"type": "directory", "path": folder, "oid": COMMIT}
        info = {"id": repository.removeprefix("datasets/"), "sha": COMMIT, "siblings": siblings}
        for revision in ("main", COMMIT):
            path = f"/api/{kind}{repository}/revision/{revision}"
            self.files[path] = json.dumps(info).encode()
        for folder, content in folders.items():
            path = f"/api/{kind}{repository}/tree/{COMMIT}/{folder}".rstrip("/")
            self.files[path] = json.dumps([*content.values()]).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        path = unquote(urlsplit(self.path).path)
        content = self.server.files.get(path)
        self.answer(content or b"", code=200 if content is not None else 404)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((path, self.headers.get("Range", "")))
        content = self.server.files.get(path)
        if faults := self.server.faults[path]:
            faults.pop(0)(self, content or b"")
        elif content is None:
            self.answer(b"", code=404)
        else:
            self.answer(content)

    def answer(
        self, content: bytes, *, sent: bytes | None = None, code: int = 200, **headers: str
    ) -> None:
        """Send a content, or the part of it that is asked for, or what is to be sent instead."""
        sent = content if sent is None else sent
        begun = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if code == 200 and begun:
            start = int(begun[1])
            if start >= len(content):
                code, content, sent = 416, b"", b""
            else:
                code = 206
                end = min(int(begun[2] or len(content)) + 1, len(content))
                headers["Content_Range"] = f"bytes {start}-{end - 1}/{len(content)}"
                content, sent = content[start:end], sent[start:end]
        self.send_response(code)
        path = unquote(urlsplit(self.path).path)
        if path in self.server.etags:
            headers |= {"ETag": f'"{self.server.etags[path]}"', "X_Repo_Commit": COMMIT}
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server for the time of the block."""
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def closed_url() -> str:
    """Return an address on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
