"""Makes the serverdir of a primary with so many serials and files, and keeps it for the next run.

The rows are written straight into SQLite, in the form in which devpi-server writes them: serial 0 is
devpi-init's own, serial 1 creates the indexes, then registrations of releases (metadata only) and uploads
(metadata and a file) follow in turn. devpi-fsck accepts the result, devpi-server serves it, and
`.event_serial` is current, so it idles.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from devpi_server.fileutil import dumps, loads

FORMAT = 1
"""Raise it when the generated data change, so that older cached sets are not used."""

_PIECE = 1 << 20
VERSIONS_PER_PROJECT = 20
PROJECTS_PER_INDEX = 250
STAMP = "Sun, 22 Nov 2026 12:00:00 GMT"
WHEN = (2026, 11, 22, 12, 0, 0)
EMPTY_FIELDS = (
    *("author", "author_email", "comment", "description_content_type", "download_url", "home_page"),
    *("keywords", "license", "license_expression", "maintainer", "maintainer_email", "requires_python"),
)
LIST_FIELDS = (
    *("dynamic", "license_file", "obsoletes", "obsoletes_dist", "platform", "project_urls", "provides"),
    *("provides_dist", "provides_extras", "requires", "requires_dist", "requires_external"),
    "supported_platform",
)

Changes = dict[str, tuple[str, int, Any]]
Row = tuple[Changes, list[str]]


@dataclass(frozen=True)
class Dataset:
    """A generated primary: its folder, and what a full copy of it must contain."""

    path: Path
    serials: int
    files: int
    file_size: int
    changelog_bytes: int

    @property
    def serverdir(self) -> Path:
        """The pristine serverdir; benchmarks work on a copy, see `checkout`."""
        return self.path / "serverdir"

    @property
    def secretfile(self) -> Path:
        return self.path / "secret"

    @property
    def last_serial(self) -> int:
        return self.serials - 1

    def relpaths(self) -> list[tuple[str, str]]:
        """Relpath and sha256 of every file."""
        lines = (self.path / "files.txt").read_text().splitlines()
        return [(relpath, digest) for digest, relpath in (line.split(" ", 1) for line in lines)]


def build(cache: Path, serials: int, files: int, file_size: int) -> Dataset:
    """Return the data set with these numbers, generating it if `cache` does not have it yet."""
    if serials < files + 2:
        raise ValueError(f"{files} files need at least {files + 2} serials")
    path = cache / f"v{FORMAT}-{serials}-{files}-{file_size}"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f".partial-{os.getpid()}-{path.name}"
        try:
            _generate(partial, serials, files, file_size)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Dataset(path=path, **json.loads((path / "dataset.json").read_text()))


def checkout(dataset: Dataset, target: Path) -> Path:
    """Copy the serverdir to `target`; the files are hard links, as nothing ever writes into them."""
    target.mkdir(parents=True)
    for entry in dataset.serverdir.iterdir():
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name, copy_function=os.link)
        else:
            shutil.copy2(entry, target / entry.name)
    return target


def _generate(path: Path, serials: int, files: int, file_size: int) -> None:
    serverdir = path / "serverdir"
    path.mkdir(parents=True)
    devpi_init = Path(sys.executable).with_name("devpi-init")
    subprocess.run([devpi_init, "--serverdir", serverdir, "--no-root-pypi"], check=True, capture_output=True)
    secret = path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32))
    history = _History(serverdir, files, file_size)
    changelog_bytes = _write_rows(serverdir, history, serials)
    (serverdir / ".event_serial").write_text(str(serials))
    (path / "files.txt").write_text("".join(f"{digest} {relpath}\n" for relpath, digest in history.stored))
    about = Dataset(path, serials, files, file_size, changelog_bytes)
    numbers = {name: value for name, value in asdict(about).items() if name != "path"}
    (path / "dataset.json").write_text(json.dumps(numbers))


def _write_rows(serverdir: Path, history: _History, serials: int) -> int:
    connection = sqlite3.connect(serverdir / ".sqlite")
    try:
        connection.execute("PRAGMA synchronous=OFF")
        [(root,)] = connection.execute("SELECT data FROM changelog WHERE serial = 0").fetchall()
        user = loads(root)[0]["root/.config"][2]
        for serial, row in enumerate(history.rows(serials - 1, user), start=1):
            data = dumps(row)
            connection.execute("INSERT INTO changelog (serial, data) VALUES (?, ?)", (serial, data))
            connection.executemany(
                "INSERT OR REPLACE INTO kv (key, keyname, serial) VALUES (?, ?, ?)",
                [(relpath, keyname, serial) for relpath, (keyname, _back, _value) in row[0].items()],
            )
        connection.commit()
        [(size,)] = connection.execute("SELECT sum(length(data)) FROM changelog").fetchall()
        return int(size)
    finally:
        connection.close()


class _History:
    """What happened on the primary, told as rows of its changelog; uploads write their file on the way."""

    def __init__(self, serverdir: Path, files: int, file_size: int) -> None:
        self.stored: list[tuple[str, str]] = []
        self._root = serverdir / "+files"
        self._files = files
        self._file_size = file_size
        self._random = random.Random(20261122)  # noqa: S311 - the same data in each run
        self._serial = 0
        self._last_serials: dict[str, int] = {".config": 0, "root/.config": 0}
        self._values: dict[str, Any] = {}

    def rows(self, count: int, user: dict[str, Any]) -> Iterator[Row]:
        """Yield `count` rows: the indexes, then registrations and, evenly spread among them, uploads."""
        releases = count - 1 - self._files
        projects = -(-max(releases, self._files) // VERSIONS_PER_PROJECT)
        indexes = -(-projects // PROJECTS_PER_INDEX)
        config = {f"dev{number}": _index_config() for number in range(indexes)}
        yield self._row({"root/.config": ("USER", user | {"indexes": config})})
        registered = uploaded = 0
        for step in range(1, count):
            due = uploaded < self._files * step // (count - 1)
            if due and (uploaded < registered or registered == releases):
                yield self._upload(uploaded)
                uploaded += 1
            else:
                yield self._register(registered)
                registered += 1

    def _row(self, changes: dict[str, tuple[str, Any]], renames: list[str] | None = None) -> Row:
        self._serial += 1
        row: Changes = {}
        for relpath, (keyname, value) in changes.items():
            row[relpath] = (keyname, self._last_serials.get(relpath, -1), value)
            self._last_serials[relpath] = self._serial
        return row, renames or []

    def _register(self, number: int) -> Row:
        index, project, version = _release(number)
        changes: dict[str, tuple[str, Any]] = {}
        names = self._values.setdefault(f"{index}/.projects", set())
        if project not in names:
            names.add(project)
            changes[f"{index}/.projects"] = ("PROJNAMES", set(names))
        versions = self._values.setdefault(f"{index}/{project}/.versions", set())
        versions.add(version)
        changes[f"{index}/{project}/.versions"] = ("PROJVERSIONS", set(versions))
        changes[f"{index}/{project}/{version}/.config"] = ("PROJVERSION", self._metadata(number))
        return self._row(changes)

    def _upload(self, number: int) -> Row:
        index, project, version = _release(number)
        filename = f"{project.replace('-', '_')}-{version}.tar.gz"
        digest, relpath = self._store(index, filename)
        about = {"hash_spec": f"sha256={digest}", "hashes": {"sha256": digest}}
        links = self._values.setdefault(f"{index}/{project}/.simple", [])
        links.append((filename, f"{relpath}#sha256={digest}"))
        simple = {"links": list(links), "requires_python": [""] * len(links)}
        log = {"what": "upload", "who": "root", "when": WHEN, "dst": index}
        link = {"rel": "releasefile", "entrypath": relpath, **about, "_log": [log]}
        entry = {**about, "project": project, "version": version, "last_modified": STAMP}
        metadata = self._metadata(number) | {"+elinks": [link]}
        changes = {
            f"{index}/{project}/{version}/.config": ("PROJVERSION", metadata),
            relpath: ("STAGEFILE", entry),
            f"{index}/{project}/.simple": ("PROJSIMPLELINKS", simple),
        }
        return self._row(changes, [f"+files/{relpath}-{self._random.randbytes(32).hex()}-tmp"])

    def _store(self, index: str, filename: str) -> tuple[str, str]:
        # In pieces: there is an end to what randbytes makes at once.
        sizes = (min(_PIECE, self._file_size - start) for start in range(0, self._file_size, _PIECE))
        content = b"".join(map(self._random.randbytes, sizes))
        digest = hashlib.sha256(content).hexdigest()
        relpath = f"{index}/+f/{digest[:3]}/{digest[3:16]}/{filename}"
        path = self._root / relpath
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.stored.append((relpath, digest))
        return digest, relpath

    def _metadata(self, number: int) -> dict[str, Any]:
        _index, project, version = _release(number)
        words = f"Release {version} of {project} does what the one before it did, and a little more. "
        return {
            **dict.fromkeys(EMPTY_FIELDS, ""),
            **{field: [] for field in LIST_FIELDS},
            "classifiers": ["Programming Language :: Python :: 3", "License :: OSI Approved :: MIT License"],
            "description": words * (4 + number % 17),
            "metadata_version": "2.1",
            "name": project,
            "summary": f"What {project} is good for",
            "version": version,
        }


def _release(number: int) -> tuple[str, str, str]:
    """Index, project and version of a release; neighbours in time belong to different projects."""
    block, place = divmod(number, PROJECTS_PER_INDEX * VERSIONS_PER_PROJECT)
    version, project = divmod(place, PROJECTS_PER_INDEX)
    return f"root/dev{block}", f"project-{block}-{project:03}", f"1.{version}"


def _index_config() -> dict[str, Any]:
    return {
        "acl_toxresult_upload": [":ANONYMOUS:"],
        "acl_upload": ["root"],
        "bases": (),
        "mirror_whitelist": [],
        "mirror_whitelist_inheritance": "intersection",
        "type": "stage",
        "volatile": True,
    }
