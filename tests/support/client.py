"""A thin client of one devpi-server: what people and tools do to it over HTTP."""

import base64
import hashlib
import posixpath
import re
import ssl
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import httpx

from tests.support.packages import build_docs, build_sdist, build_wheel

PASSWORD = "secret"
JSON = {"Accept": "application/json"}


class Client:
    """The API of one server, as one logged-in user; also a context manager that closes it."""

    def __init__(self, url: str, *, timeout_seconds: float = 60) -> None:
        """Connect to a server's root URL; nobody is logged in."""
        self.url = url.rstrip("/")
        # Without the usual CAs, which take longer to load than most requests: no server here has TLS.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.http = httpx.Client(base_url=self.url, timeout=timeout_seconds, trust_env=False, verify=context)

    def __enter__(self) -> "Client":
        """Return the client."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def request(self, method: str, path: str, *, expect: int | None = None, **kwargs: Any) -> httpx.Response:
        """Send a request; fail with the answer unless its status is as expected (else below 400)."""
        response = self.http.request(method, path, **kwargs)
        good = response.status_code < 400 if expect is None else response.status_code == expect
        if not good:
            text = response.text[:2_000]
            raise AssertionError(f"{method} {self.url}{path} answered {response.status_code}:\n{text}")
        return response

    def json(self, method: str, path: str, body: object = None, **kwargs: Any) -> Any:
        """Send a JSON request and return the `result` of the answer."""
        response = self.request(method, path, json=body, headers=JSON, **kwargs)
        return response.json().get("result")

    # Users and indexes

    def login(self, user: str = "root", password: str = "") -> "Client":
        """Log in; later requests carry the token."""
        token = self.json("POST", "/+login", {"user": user, "password": password})["password"]
        credentials = base64.b64encode(f"{user}:{token}".encode()).decode()
        self.http.headers["X-Devpi-Auth"] = credentials
        return self

    def create_user(self, user: str, password: str = PASSWORD, **fields: object) -> None:
        """Create a user."""
        self.json("PUT", f"/{user}", {"password": password, **fields})

    def modify_user(self, user: str, **fields: object) -> None:
        """Change fields of a user, e.g. `password` or `email`."""
        self.json("PATCH", f"/{user}", fields)

    def delete_user(self, user: str) -> None:
        """Delete a user with all its indexes."""
        self.json("DELETE", f"/{user}")

    def create_index(self, index: str, **config: object) -> None:
        """Create the index `user/name`; the configuration is devpi's, e.g. `bases`, `volatile`."""
        self.json("PUT", f"/{index}", config)

    def create_mirror(self, index: str, mirror_url: str, **config: object) -> None:
        """Create a mirror index of an upstream's simple page."""
        self.create_index(index, type="mirror", mirror_url=mirror_url, **config)

    def modify_index(self, index: str, *operations: str, **config: object) -> None:
        """Change an index by operations such as `bases+=root/x`, or replace its configuration."""
        self.json("PATCH", f"/{index}", list(operations) if operations else config)

    def delete_index(self, index: str) -> None:
        """Delete a volatile index with all its content."""
        self.json("DELETE", f"/{index}")

    def index_config(self, index: str) -> dict[str, Any]:
        """Return the configuration of an index and the names of its projects."""
        result: dict[str, Any] = self.json("GET", f"/{index}")
        return result

    def users(self) -> dict[str, Any]:
        """Return all users with their indexes."""
        result: dict[str, Any] = self.json("GET", "/")
        return result

    # Releases

    def upload(self, index: str, project: str, version: str, file: tuple[str, bytes], **fields: str) -> str:
        """Upload a release file as twine does and return its relpath."""
        data = {":action": "file_upload", "name": project, "version": version, **fields}
        self.request("POST", f"/{index}/", data=data, files={"content": file})
        return file_relpath(index, *file)

    def upload_wheel(self, index: str, project: str, version: str, payload: bytes = b"") -> str:
        """Upload a small wheel and return its relpath."""
        return self.upload(index, project, version, build_wheel(project, version, payload))

    def upload_sdist(self, index: str, project: str, version: str, payload: bytes = b"") -> str:
        """Upload a small source distribution and return its relpath."""
        return self.upload(index, project, version, build_sdist(project, version, payload))

    def register(self, index: str, project: str, version: str, **fields: str) -> None:
        """Register metadata of a version without a file."""
        data = {":action": "submit", "name": project, "version": version, **fields}
        # devpi reads the form only when it is a multipart one.
        self.request("POST", f"/{index}/", files={key: (None, value) for key, value in data.items()})

    def upload_docs(self, index: str, project: str, version: str, content: bytes | None = None) -> str:
        """Upload a zip of documentation and return its relpath."""
        content = content if content is not None else build_docs(f"{project} {version}")
        data = {":action": "doc_upload", "name": project, "version": version}
        self.request("POST", f"/{index}/", data=data, files={"content": (f"{project}.zip", content)})
        return file_relpath(index, f"{project}-{version}.doc.zip", content)

    def upload_toxresult(self, relpath: str, result: object) -> str:
        """Attach a tox result to a release file and return its relpath."""
        path: str = self.json("POST", file_path(relpath), result)
        return path.partition("#")[0]

    def push(self, index: str, project: str, version: str, target: str, **options: bool) -> None:
        """Copy a version from one index to another."""
        body = {"name": project, "version": version, "targetindex": target, **options}
        self.json("POST", f"/{index}", body)

    def delete_file(self, relpath: str, *, force: bool = False) -> None:
        """Delete one release file."""
        self.json("DELETE", file_path(relpath) + _force(force))

    def delete_version(self, index: str, project: str, version: str, *, force: bool = False) -> None:
        """Delete a version with its files."""
        self.json("DELETE", f"/{index}/{project}/{version}{_force(force)}")

    def delete_project(self, index: str, project: str, *, force: bool = False) -> None:
        """Delete a project with all its versions."""
        self.json("DELETE", f"/{index}/{project}{_force(force)}")

    def refresh(self, index: str, project: str) -> None:
        """Make a mirror ask its upstream again for a project's links."""
        self.request("POST", f"/{index}/+simple/{project}/refresh", expect=302)

    # Reading

    def version(self, index: str, project: str, version: str) -> dict[str, Any]:
        """Return the metadata of a version; its files are under `+links`."""
        result: dict[str, Any] = self.json("GET", f"/{index}/{project}/{version}")
        return result

    def simple(self, index: str, project: str = "", *, expect: int | None = None) -> str:
        """Return the simple page of a project, or of the whole index."""
        path = f"/{index}/+simple/{project}/" if project else f"/{index}/+simple/"
        return self.request("GET", path, expect=expect).text

    def links(self, index: str, project: str) -> dict[str, str]:
        """Return the files on a project's simple page: name to relpath, or to an external URL."""
        page = _Links()
        page.feed(self.simple(index, project))
        paths = [_relpath(f"{index}/+simple/{project}", href) for href in page.hrefs]
        return {path.rsplit("/", 1)[-1]: path for path in paths}

    def fetch(self, relpath: str, *, expect: int | None = 200) -> bytes:
        """Download a file by its relpath."""
        return self.request("GET", file_path(relpath), expect=expect).content


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href is not None:
            self.hrefs.append(href)


def _relpath(page: str, href: str) -> str:
    # devpi writes the bare relpath into the link, unquoted: only the last `#` starts the hash.
    path = re.sub(r"#(sha256|md5)=[0-9a-f]+$", "", href)
    return path if "://" in path else posixpath.normpath(f"{page}/{path}")


def file_relpath(index: str, filename: str, content: bytes) -> str:
    """Return where devpi-server keeps an uploaded file."""
    digest = hashlib.sha256(content).hexdigest()
    return f"{index}/+f/{digest[:3]}/{digest[3:16]}/{filename}"


def file_path(relpath: str) -> str:
    """Return the path of a file's URL, with every odd character quoted."""
    return "/" + quote(relpath)


def toxresult(outcome: str = "congratulations") -> dict[str, object]:
    """Return a small document as tox writes it."""
    command = {"command": ["pytest"], "output": outcome, "retcode": "0"}
    environment = {"python": {"version": "3.11"}, "setup": [], "test": [command]}
    return {"toxversion": "4.0", "platform": "linux", "testenvs": {"py311": environment}}


def _force(force: bool) -> str:
    return "?force" if force else ""
