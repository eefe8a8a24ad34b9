"""Names from outside: each is a file, a fault that is named, or a clear error; never a crash or a loop."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from replisync.changelog.ports import FileStore
from replisync.cli.options import settings
from replisync.devpi.keys import MAX_NAME_BYTES, MAX_PATH_BYTES
from replisync.devpi.wire import Limits
from replisync.errors import ReplisyncError
from replisync.primary.client import Primary
from replisync.primary.connection import Link
from replisync.standby.files.disk import DiskFiles
from replisync.standby.serverdir import Serverdir, names_problem
from replisync.system import clock
from tests.edges.conftest import file
from tests.edges.scenario import Target, drop, on_disk, put, state, users
from tests.fakes import ScriptedPrimary, Trap
from tests.support.runs import REPLISYNC, run_apart

FOLDER, INSIDE = "u/dev/+f/aaa", "u/dev/+f/aaa/b-1.0.zip"


@pytest.fixture
def server() -> ScriptedPrimary:
    """A primary with a user and a stage."""
    server = ScriptedPrimary()
    server.commit(users("dev", "pypi"))
    return server


@pytest.fixture
def target(folder: Path, server: ScriptedPrimary) -> Iterator[Target]:
    """A target that has followed the primary so far."""
    with closing(Target(folder / "target", server, Trap(), entries=100)) as target:
        target.begin()
        target.catch_up(server.serial)
        yield target


def follow(target: Target, server: ScriptedPrimary) -> None:
    """Catch up, which must not take more than one try."""
    target.catch_up(server.serial)
    target.pipeline.step(poll=False)
    assert state(target.serverdir.root)["pending"] == []
    assert list(target.serverdir.tmp.iterdir()) == [], "what can have no place is not kept"


def faults(target: Target) -> dict[str, tuple[str, str]]:
    """Return kind and reason of the faults."""
    return {fault.relpath: (fault.kind, fault.reason) for fault in target.store.faults()}


def here(target: Target) -> set[str]:
    """Return the files in place."""
    root = target.serverdir.files
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("together", [True, False], ids=["in one entry", "one after the other"])
def test_a_file_whose_path_another_one_needs_as_its_folder(
    target: Target, server: ScriptedPrimary, together: bool
) -> None:
    """One of them has its place, the other one is a fault; later serials arrive."""
    if together:
        put(a=(FOLDER, b"a", True), b=(INSIDE, b"b", True))(server)
    else:
        put(a=(FOLDER, b"a", True))(server)
        follow(target, server)
        put(b=(INSIDE, b"b", True))(server)
    server.commit({})
    follow(target, server)
    assert here(target) == {FOLDER}
    assert faults(target) == {INSIDE: ("unfetchable", "another file has the path of its folder")}
    drop(FOLDER)(server)
    follow(target, server)
    assert here(target) == set()


def test_a_file_whose_path_is_a_folder(target: Target, server: ScriptedPrimary) -> None:
    """It is a fault, and when it is dropped what is in the folder stays."""
    put(b=(INSIDE, b"b", True))(server)
    follow(target, server)
    for digest in (True, False):
        put(a=(FOLDER, b"a", digest))(server)
        follow(target, server)
        assert faults(target) == {FOLDER: ("unfetchable", "its path is that of a folder with other files")}
    drop(FOLDER)(server)
    follow(target, server)
    assert faults(target) == {}
    drop("u", "u/dev", "u/dev/+f")(server)
    follow(target, server)
    assert here(target) == {INSIDE}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x" * MAX_NAME_BYTES, None),
        ("x" * (MAX_NAME_BYTES + 1), "unfetchable"),
        ("é" * (MAX_NAME_BYTES // 2 + 1), "unfetchable"),
        ("/".join(["y" * 200] * (MAX_PATH_BYTES // 200 + 1)), "unfetchable"),
        ("with#hash.zip", "unfetchable"),
        ("\u202eright to left.zip", None),
        ("line\nfeed \x1b[31m and \x7f.zip", None),
        ("e\u0301 and \u00e9.zip", None),
        ("\U0001f4e6 \ufdd0 \uffff.zip", None),
        ("CON.zip", None),
        ("-rf", None),
        ("a\\..\\b", None),
        ("...", None),
        ("%2e%2e%2f", None),
    ],
    ids=ascii,
)
def test_odd_names(target: Target, server: ScriptedPrimary, name: str, kind: str | None) -> None:
    """Those that a file system can have are files of just this name."""
    relpath = f"u/dev/+f/abc/d/{name}"
    put(a=(relpath, b"content", True))(server)
    server.commit({})
    follow(target, server)
    assert {path: found[0] for path, found in faults(target).items()} == ({relpath: kind} if kind else {})
    assert here(target) == (set() if kind else {relpath})
    drop(relpath)(server)
    follow(target, server)
    assert here(target) == set()


def test_a_name_that_the_file_system_does_not_take(folder: Path, server: ScriptedPrimary) -> None:
    """Where names are encrypted fewer bytes fit: such a file is a fault, and all others arrive."""

    class Short(Target):
        def make_files(self) -> FileStore:
            own = self.serverdir
            return DiskFiles(own.files, own.tmp, own.retained, longest=143)

    good, bad = (f"u/dev/+f/abc/d/{'x' * length}" for length in (143, 144))
    with closing(Short(folder / "short", server, Trap(), entries=100)) as target:
        target.begin()
        put(a=(good, b"a", True), b=(bad, b"b", True))(server)
        server.commit({})
        follow(target, server)
        assert here(target) == {good}
        why = "the file system takes no name of more than 143 bytes"
        assert faults(target) == {bad: ("unfetchable", why)}


@pytest.mark.parametrize(
    "relpath",
    [
        *("../x", "/etc/passwd", "u/../../x", "u/dev/./x", "u//x", "u/dev/", "", ".", "..", "u/x\0.zip"),
        *("u/dev/+f/..", "u/\0"),
    ],
    ids=ascii,
)
def test_keys_that_lead_out_or_can_be_read_in_two_ways(
    target: Target, server: ScriptedPrimary, folder: Path, relpath: str
) -> None:
    """Their entries are stored; they are a fault while they name a file, and never asked for nor written."""
    before = on_disk(target.serverdir.root)
    asked = len(server.requests)
    server.files[relpath] = b"content"
    server.commit({relpath: ("STAGEFILE", -1, file())})
    server.commit({})
    follow(target, server)
    assert target.store.serials_of([relpath]) == {relpath: 1}
    kinds = {path: kind for path, (kind, _) in faults(target).items()}
    assert kinds == {relpath: "unfetchable"}
    assert (target.store.file_counts().total, target.store.missing_private_files()) == (0, 0)
    target.store.change_faults({"next_try": clock.now()})
    target.pipeline.wanted.retry()
    server.commit({relpath: ("STAGEFILE", 1, None)})
    follow(target, server)
    assert faults(target) == {}
    assert on_disk(target.serverdir.root) == before
    assert [path.name for path in folder.iterdir()] == ["target"]
    assert all(request.url.path.startswith("/+") for request in server.requests[asked:])


def test_names_that_differ_in_case_or_composition_are_different_files(
    target: Target, server: ScriptedPrimary
) -> None:
    names = ("pkg.zip", "PKG.zip", "\u00e9.zip", "e\u0301.zip")
    for number, name in enumerate(names):
        put(a=(f"u/dev/+f/abc/d/{name}", b"x" * number, True))(server)
    follow(target, server)
    assert len(here(target)) == len(names)


@pytest.mark.parametrize(
    ("exists", "problem"),
    [
        (os.path.lexists, ""),
        (lambda path: path.name == "probe-A", "upper and lower case"),
        (lambda path: path.name == "probe-e\u0301", "how Unicode composes letters"),
    ],
)
def test_a_file_system_that_does_not_keep_names_apart_is_known(
    tmp_path: Path, exists: Callable[[Path], bool], problem: str
) -> None:
    assert problem in names_problem(tmp_path, exists)
    assert bool(names_problem(tmp_path, exists)) == bool(problem)
    assert list(tmp_path.iterdir()) == []


def test_a_new_serverdir_is_probed(tmp_path: Path) -> None:
    """Here all names are kept apart; nothing of the probe is left."""
    Serverdir(tmp_path / "new").prepare()
    assert not any(path.is_file() for path in (tmp_path / "new").rglob("*"))


def test_a_locale_in_which_names_would_be_written_otherwise(tmp_path: Path) -> None:
    """The standby's files would have other names than the primary's."""
    ascii_only = ("env", "LC_ALL=C", "PYTHONCOERCECLOCALE=0", "PYTHONUTF8=0", *REPLISYNC)
    done = run_apart("status", "--serverdir", tmp_path, code=2, program=ascii_only)
    assert "LC_ALL=C.UTF-8" in done.message


@pytest.mark.parametrize("protocol", ["stream", "one by one"])
def test_the_longest_entry_is_for_the_operator_to_say(server: ScriptedPrimary, protocol: str) -> None:
    server.commit({"u/.config": ("USER", 0, {"title": "x" * 5000})})

    def read(limit: int) -> object:
        primary = Primary(
            "http://p/", None, uuid="us", link=Link(Limits(limit), transport=server.transport())
        )
        with primary:
            if protocol == "one by one":
                return primary.entry(1)
            with primary.changes(0, poll=False) as changes:
                return list(changes.groups)

    assert read(6000)
    with pytest.raises(ReplisyncError, match=r"more than 4000 bytes.*--max-entry-size") as caught:
        read(4000)
    assert caught.value.exit_code in (4, 5)


def test_the_option_for_it() -> None:
    from replisync.cli.commands.clone import clone

    values = dict.fromkeys(("argon2_memory_cost", "argon2_parallelism", "argon2_time_cost"), 1)
    assert settings({**values, "max_entry_size": 3 * 1024 * 1024}).access.entry_bytes == 3 * 1024 * 1024
    assert settings(values).access.entry_bytes == Limits().entry_bytes
    said = CliRunner().invoke(clone, ["--max-entry-size", "901"])
    assert "is not between 1M and 900M" in said.output
