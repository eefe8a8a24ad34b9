"""The judge of every replication test: is a target what it claims to be?

Every check raises an AssertionError that lists what differs. The checks share no code with replisync.
"""

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.devpi import Server, copy_serverdir
from tests.support.history import (
    History,
    connect,
    files_below,
    read_history,
    strip_renames,
)
from tests.support.releases import Release, run_tool

MOST_SHOWN = 12
LONGEST_SHOWN = 300


def assert_replicated(
    primary: Server, target: Path, *, export: bool = True, reencoded: bool = False, fsck: bool = True
) -> None:
    """Check everything about a target whose primary does not change at the moment."""
    assert_serverdir(target, primary.uuid())
    assert_equal_history(primary.serverdir, target, primary.serial(), reencoded=reencoded)
    assert_files(primary.serverdir, target)
    if fsck:
        assert_fsck(target)
    if export:
        assert_same_export(primary.serverdir, target)


def assert_equal_history(
    primary_dir: Path, target_dir: Path, upto_serial: int | None = None, *, reencoded: bool = False
) -> None:
    """Check that the target holds the primary's history up to a serial (the primary's last by default).

    `reencoded` tells that the primary sends other bytes than it stores: then only the values are compared.
    """
    primary, target = read_history(primary_dir), read_history(target_dir)
    upto = primary.last_serial if upto_serial is None else upto_serial
    assert_schema(target_dir)
    compare_histories(primary, target, upto, reencoded=reencoded)


def compare_histories(primary: History, target: History, upto: int, *, reencoded: bool = False) -> None:
    """Check serials, entries and key rows of two histories."""
    wanted = set(range(upto + 1))
    _fail_on(_set_differences(wanted, set(target.changelog), "serial"), f"serials 0..{upto} in the target")
    missing = wanted - set(primary.changelog)
    _fail_on((f"serial {serial}" for serial in sorted(missing)), "serials that the primary itself lacks")
    for serial in sorted(wanted):
        _compare_entry(primary, target, serial, reencoded=reencoded)
    expected = {key: (name, serial) for key, (name, serial, _) in primary.latest(upto).items()}
    _fail_on(_dict_differences(expected, target.kv), f"kv rows as of serial {upto}")


def assert_schema(target_dir: Path) -> None:
    """Check that the database has all objects that devpi-server would otherwise create at its start."""
    with closing(sqlite3.connect(":memory:")) as model, closing(connect(target_dir)) as database:
        model.executescript(
            "CREATE TABLE changelog (serial INTEGER PRIMARY KEY, data BLOB NOT NULL);"
            "CREATE TABLE kv (key TEXT NOT NULL PRIMARY KEY, keyname TEXT, serial INTEGER);"
            "CREATE INDEX kv_serial_idx ON kv (serial);"
        )
        for table in ("changelog", "kv"):
            assert _table(database, table) == _table(model, table), f"table {table} is not as devpi makes it"
        query = "SELECT tbl_name FROM sqlite_master WHERE type = 'index' AND name = 'kv_serial_idx'"
        assert database.execute(query).fetchall() == [("kv",)], "index kv_serial_idx on kv is missing"
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",), "the database is damaged"


def assert_files(primary_dir: Path, target_dir: Path) -> None:
    """Check that the target has every live file of its database with the primary's bytes, and no other."""
    live = read_history(target_dir).live_files
    problems = [_file_problem(primary_dir, target_dir, path, meta) for path, meta in sorted(live.items())]
    superfluous = sorted(set(files_below(target_dir / "+files")) - set(live))
    problems += [f"{path}: no live key names this file" for path in superfluous]
    _fail_on((problem for problem in problems if problem), f"files of {target_dir}")


def assert_serverdir(target_dir: Path, primary_uuid: str) -> None:
    """Check that the serverdir looks like a devpi replica of the primary."""
    version = (target_dir / ".serverversion").read_text()
    assert version.startswith("4"), f".serverversion is {version!r}"
    nodeinfo = json.loads((target_dir / ".nodeinfo").read_bytes())
    remembered = nodeinfo.get("master-uuid") or nodeinfo.get("primary-uuid")
    assert nodeinfo["role"] == "replica", f".nodeinfo is not of a replica: {nodeinfo}"
    assert remembered == primary_uuid, f".nodeinfo names another primary than {primary_uuid}: {nodeinfo}"
    assert nodeinfo["uuid"] != primary_uuid, f"the target has its primary's uuid: {nodeinfo}"


def assert_fsck(serverdir: Path, *, release: Release | None = None) -> None:
    """Check a copy of the serverdir with devpi-fsck, which would rewrite `.nodeinfo` of the original."""
    with tempfile.TemporaryDirectory(dir=serverdir.parent) as scratch:
        copy = copy_serverdir(serverdir, Path(scratch) / "fsck", link_files=True)
        run_tool("devpi-fsck", "--serverdir", copy, release=release)


def export(serverdir: Path, outdir: Path, *, mirrored: bool = True, release: Release | None = None) -> Path:
    """Export a copy of the serverdir with devpi-export and return the folder."""
    options = ["--include-mirrored-files"] if mirrored else []
    with tempfile.TemporaryDirectory(dir=serverdir.parent) as scratch:
        copy = copy_serverdir(serverdir, Path(scratch) / "export", link_files=True)
        run_tool("devpi-export", "--serverdir", copy, *options, outdir, release=release)
    return outdir


def assert_same_export(dir_a: Path, dir_b: Path, *, mirrored: bool = False) -> None:
    """Check that the exports of two serverdirs are equal."""
    with tempfile.TemporaryDirectory(dir=dir_b.parent) as scratch:
        out_a = export(dir_a, Path(scratch) / "a", mirrored=mirrored)
        out_b = export(dir_b, Path(scratch) / "b", mirrored=mirrored)
        assert_equal_exports(out_a, out_b)


def assert_equal_exports(dir_a: Path, dir_b: Path) -> None:
    """Check that two exports have the same content, whatever its order."""
    names_a, names_b = set(files_below(dir_a)), set(files_below(dir_b))
    _fail_on(_set_differences(names_a, names_b, "file"), "files of the exports")
    differing = (name for name in sorted(names_a - {"dataindex.json"}) if not _same_bytes(dir_a, dir_b, name))
    _fail_on((f"{name}: other bytes" for name in differing), "files of the exports")
    index_a, index_b = _canonical_index(dir_a), _canonical_index(dir_b)
    _fail_on(_tree_differences(index_a, index_b, ""), "dataindex.json of the exports")


def _compare_entry(primary: History, target: History, serial: int, *, reencoded: bool) -> None:
    changes = _dict_differences(primary.changes(serial), target.changes(serial))
    _fail_on(changes, f"changes of serial {serial}")
    renames = target.renames(serial)
    assert renames == [], f"serial {serial} of the target keeps the primary's renames: {renames}"
    if not reencoded:
        same = strip_renames(primary.changelog[serial]) == target.changelog[serial]
        assert same, f"serial {serial}: equal values, but not the bytes that the primary stores"


def _file_problem(primary_dir: Path, target_dir: Path, relpath: str, meta: dict[str, Any]) -> str | None:
    ours, theirs = target_dir / "+files" / relpath, primary_dir / "+files" / relpath
    if not ours.is_file():
        # A deleted version of a mirror keeps its key, but the primary deletes the file.
        return f"{relpath}: missing" if theirs.is_file() else None
    content = ours.read_bytes()
    if theirs.is_file():
        return None if theirs.read_bytes() == content else f"{relpath}: other bytes than the primary's"
    hash_type, _, digest = meta.get("hash_spec", "").partition("=")
    if not hash_type or hashlib.new(hash_type, content, usedforsecurity=False).hexdigest() == digest:
        return None
    return f"{relpath}: wrong {hash_type}, and the primary has no such file"


def _table(database: sqlite3.Connection, name: str) -> list[tuple[Any, ...]]:
    return database.execute("SELECT name, type, [notnull], pk FROM pragma_table_info(?)", [name]).fetchall()


def _canonical_index(export_dir: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((export_dir / "dataindex.json").read_bytes())
    for content in index["indexes"].values():
        files = content.get("files", [])
        content["files"] = {f"{file['type']} {file['relpath']}": file for file in files}
        assert len(content["files"]) == len(files), "two files of an export share type and relpath"
    return index


def _same_bytes(dir_a: Path, dir_b: Path, name: str) -> bool:
    return (dir_a / name).read_bytes() == (dir_b / name).read_bytes()


def _set_differences(wanted: set[Any], found: set[Any], noun: str) -> list[str]:
    missing = [f"{noun} {item} is missing" for item in sorted(wanted - found)]
    return missing + [f"{noun} {item} is superfluous" for item in sorted(found - wanted)]


def _dict_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    problems = _set_differences(set(wanted), set(found), "key")
    for key in sorted(set(wanted) & set(found)):
        # 1, True and 1.0 are equal in Python, but not in devpi's format.
        if repr(wanted[key]) != repr(found[key]) and not _equal(wanted[key], found[key]):
            problems.append(f"{key}:\n      wanted {_short(wanted[key])}\n      found  {_short(found[key])}")
    return problems


def _tree_differences(wanted: Any, found: Any, where: str) -> list[str]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        problems = [f"{where}: {text}" for text in _set_differences(set(wanted), set(found), "key")]
        for key in sorted(set(wanted) & set(found)):
            problems += _tree_differences(wanted[key], found[key], f"{where}/{key}")
        return problems
    same = _equal(wanted, found)
    return [] if same else [f"{where}: wanted {_short(wanted)}, found {_short(found)}"]


def _equal(one: Any, other: Any) -> bool:
    """Compare values and their types, at any depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text)} characters)"


def _fail_on(problems: Iterable[str], subject: str) -> None:
    found = list(problems)
    if found:
        shown = "\n".join(f"  - {problem}" for problem in found[:MOST_SHOWN])
        more = f"\n  ... and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        raise AssertionError(f"{len(found)} differences in {subject}:\n{shown}{more}")
