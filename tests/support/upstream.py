"""A simple index (PEP 503) in this process, for mirror indexes to mirror."""

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from tests.support.packages import build_wheel

HashType = Literal["sha256", "md5", ""]


@dataclass
class UpstreamFile:
    """One file of a project and the hash that its link carries."""

    content: bytes
    hash_type: HashType


class Upstream:
    """The server; also a context manager. Projects and files may change while it runs."""

    def __init__(self) -> None:
        """Start to serve an empty index on a free port."""
        self.projects: dict[str, dict[str, UpstreamFile]] = {}
        self.links: dict[str, list[str]] = {}  # more of each project's page, as they are written there
        self.requests: list[str] = []
        self.failing: int | None = None
        self.stopped = False
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.upstream = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "Upstream":
        """Return the running server."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop to serve."""
        self.stop()

    def stop(self) -> None:
        """Stop to serve, also on open connections."""
        self.stopped = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The root URL, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def simple_url(self) -> str:
        """The URL for a mirror index's `mirror_url`."""
        return f"{self.url}/simple/"

    def add_file(self, project: str, filename: str, content: bytes, hash_type: HashType = "sha256") -> None:
        """Add a file, and its project if it is new."""
        self.projects.setdefault(project, {})[filename] = UpstreamFile(content, hash_type)

    def add_wheel(
        self, project: str, version: str, payload: bytes = b"", hash_type: HashType = "sha256"
    ) -> tuple[str, bytes]:
        """Add a small wheel and return its file name and bytes."""
        filename, content = build_wheel(project, version, payload)
        self.add_file(project, filename, content, hash_type)
        return filename, content

    def remove_file(self, project: str, filename: str) -> None:
        """Remove a file; its URL answers 404 from now on."""
        del self.projects[project][filename]

    def remove_project(self, project: str) -> None:
        """Remove a project with its files."""
        del self.projects[project]

    def count(self, prefix: str) -> int:
        """Return how many requests had a path that starts with the prefix."""
        return sum(path.startswith(prefix) for path in list(self.requests))

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body for a path."""
        self.requests.append(path)
        if self.failing is not None:
            return self.failing, "text/plain", b"told to fail"
        match path.strip("/").split("/"):
            case ["simple"]:
                return 200, "text/html", self._project_list()
            case ["simple", project] if project in self.projects:
                return 200, "text/html", self._links(project)
            case ["files", project, filename]:
                file = self.projects.get(project, {}).get(filename)
                if file is not None:
                    return 200, "application/octet-stream", file.content
        return 404, "text/plain", b"not here"

    def _project_list(self) -> bytes:
        links = (f'<a href="/simple/{quote(name)}/">{escape(name)}</a>' for name in sorted(self.projects))
        return _page(links)

    def _links(self, project: str) -> bytes:
        files = sorted(self.projects[project].items())
        odd = (f'<a href="{href}">odd</a>' for href in self.links.get(project, ()))
        return _page([*(_link(project, filename, file) for filename, file in files), *odd])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    upstream: Upstream

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that go away in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.server.upstream.stopped:
            self.close_connection = True
            return
        status, content_type, body = self.server.upstream.answer(unquote(urlsplit(self.path).path))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def _page(links: Iterable[str]) -> bytes:
    return ("<!DOCTYPE html><html><body>" + "<br/>\n".join(links) + "</body></html>").encode()


def _link(project: str, filename: str, file: UpstreamFile) -> str:
    fragment = ""
    if file.hash_type:
        digest = hashlib.new(file.hash_type, file.content, usedforsecurity=False).hexdigest()
        fragment = f"#{file.hash_type}={digest}"
    return f'<a href="/files/{project}/{quote(filename)}{fragment}">{escape(filename)}</a>'
