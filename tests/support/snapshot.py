"""Telling whether a run changed a target, and whether a target could be promoted as it is."""

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.history import connect, read_history
from tests.support.oracle import compare_histories

OURS = ".replisync"
DATABASE = ".sqlite"


def snapshot(serverdir: Path) -> dict[str, Any]:
    """Return everything that a devpi-server would find: names, contents and times of files, and rows."""
    found: dict[str, Any] = {}
    for path in sorted(serverdir.rglob("*")):
        name = path.relative_to(serverdir).as_posix()
        if name.startswith((OURS, DATABASE)):
            continue
        if path.is_file():
            found[name] = (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        else:
            found[name] = "folder"
    if (serverdir / DATABASE).exists():
        with closing(connect(serverdir)) as database:
            found["changelog"] = database.execute("SELECT * FROM changelog ORDER BY serial").fetchall()
            found["kv"] = database.execute("SELECT * FROM kv ORDER BY key").fetchall()
    return found


def assert_untouched(serverdir: Path, before: dict[str, Any]) -> None:
    """Check that nothing is different from a snapshot."""
    now = snapshot(serverdir)
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    assert not differing, f"changed in {serverdir}: {differing}"


def last_serial(serverdir: Path) -> int:
    """Return the last serial in the database; -1 where there is none, or no database yet."""
    if not (serverdir / DATABASE).exists():
        return -1
    with closing(connect(serverdir)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'changelog'").fetchone():
            return -1
        [(serial,)] = database.execute("SELECT max(serial) FROM changelog").fetchall()
    return -1 if serial is None else serial


def assert_promotable(target: Path, primary_dir: Path, *, reencoded: bool = False) -> int:
    """Check that a target is, at whatever serial it is, what the primary was then; return the serial.

    Every file that its keys demand is there with the right content. More files may be there: those of
    serials to come, or those that the last serial dropped.
    """
    ours = read_history(target)
    compare_histories(read_history(primary_dir), ours, ours.last_serial, reencoded=reencoded)
    problems = []
    for relpath, meta in ours.live_files.items():
        path = target / "+files" / relpath
        if path.is_file():
            hash_type, _, digest = meta.get("hash_spec", "").partition("=")
            good = not hash_type or hashlib.new(hash_type, path.read_bytes()).hexdigest() == digest
            problems += [] if good else [f"{relpath}: wrong {hash_type}"]
        elif (primary_dir / "+files" / relpath).is_file():
            problems.append(f"{relpath}: missing")
    assert not problems, f"files of {target} at serial {ours.last_serial}: {problems}"
    return ours.last_serial
