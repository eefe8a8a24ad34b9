"""Dumps as devpi-export writes them, and as older ones did, made by hand."""

import hashlib
import json
from pathlib import Path
from typing import Any

STAMP = "Sun, 22 Nov 2026 11:39:23 GMT"


class Dump:
    """A dump that is being made.

    version: of its format. Version 1, of devpi-server before 4.6, says of no file which release it is of,
        and gives digests as md5 or `hash_spec`.
    """

    def __init__(self, root: Path, version: str = "2") -> None:
        """Begin with the user root, who has no password."""
        self.root = root
        self.version = version
        self.users: dict[str, Any] = {"root": {"username": "root"}}
        self.indexes: dict[str, Any] = {}

    def write(self) -> Path:
        """Write the index of all that was added; return the folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        index = {
            "users": self.users,
            "indexes": self.indexes,
            "dumpversion": self.version,
            "pythonversion": [2, 7, 9, "final", 0],
            "devpi_server": "4.0.0",
        }
        (self.root / "dataindex.json").write_text(json.dumps(index))
        return self.root

    def user(self, name: str, **config: Any) -> None:
        """Add a user."""
        self.users[name] = {"username": name, **config}

    def index(self, name: str, kind: str = "stage", **config: Any) -> str:
        """Add an index; return its name."""
        settings: dict[str, Any] = {"type": kind, "volatile": True, **config}
        if kind == "stage":
            settings = {"bases": [], "acl_upload": [name.split("/")[0]], **settings}
        self.indexes[name] = {"indexconfig": settings, "projects": {}, "files": []}
        return name

    def release(self, index: str, project: str, version: str, filename: str, content: bytes) -> str:
        """Add a file of a release; return where its server had it."""
        digest = hashlib.sha256(content).hexdigest()
        item = self._file(f"{index}/{project}/{version}/{filename}", "releasefile", project, content)
        if self.version == "2":
            item["version"] = version
            item["log"] = [{"what": "upload", "who": "root", "when": [2026, 1, 2, 3, 4, 5], "dst": index}]
        self._versions(index, project).setdefault(version, {"name": project, "version": version})
        self.indexes[index]["files"].append(item)
        return f"{index}/+f/{digest[:3]}/{digest[3:16]}/{filename}"

    def mirrored(self, index: str, project: str, version: str, filename: str, content: bytes) -> None:
        """Add a file that a mirror had."""
        self.release(index, project, version, filename, content)
        mapping = self.indexes[index]["files"][-1]["entrymapping"]
        mapping["url"] = f"http://127.0.0.1:1/files/{filename}"

    def docs(self, index: str, project: str, version: str, content: bytes) -> None:
        """Add the documentation of a release; old servers said neither digest nor date of it."""
        item = self._file(f"{index}/{project}-{version}.doc.zip", "doczip", project, content)
        if self.version == "2":
            item["version"] = version
        else:
            del item["entrymapping"]
        self.indexes[index]["files"].append(item)

    def toxresult(self, index: str, project: str, version: str, tested: str, content: bytes) -> None:
        """Add a result for the release whose file its server had at `tested`."""
        name = f"{tested.rsplit('/', 1)[-1]}.toxresult-20260101T000000-0"
        item = self._file(f"{index}/{project}/sha256=0/{name}", "toxresult", project, content)
        item["for_entrypath"] = tested
        item["version"] = version
        self.indexes[index]["files"].append(item)

    def _versions(self, index: str, project: str) -> dict[str, Any]:
        versions: dict[str, Any] = self.indexes[index]["projects"].setdefault(project, {})
        return versions

    def _file(self, relpath: str, kind: str, project: str, content: bytes) -> dict[str, Any]:
        path = self.root / relpath
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if self.version == "2":
            digest: dict[str, Any] = {"hash_spec": f"sha256={hashlib.sha256(content).hexdigest()}"}
        else:
            digest = {"md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
        mapping = {"last_modified": STAMP, **digest}
        return {"type": kind, "projectname": project, "relpath": relpath, "entrymapping": mapping}
