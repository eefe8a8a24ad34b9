"""Commands in messages harm nothing, whoever runs them, and are what they look like."""

import ast
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import replisync
from replisync.devpi.tokens import KEY_BYTES
from replisync.errors import UsageError
from replisync.primary.secretfiles import check_place, check_private, write_key
from replisync.standby.opening import warn_of_readers
from replisync.standby.serverdir import Serverdir
from replisync.system.advice import chmod, is_system, quoted
from tests.fakes import RecordingLog
from tests.support.disk import small_disk
from tests.support.runs import run_here

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make files that others own")
COMMAND = re.compile(r"\b(chmod|chown|chgrp|rm|rmdir|mv|dd|mkfs|truncate|install|setfacl)\b")
ELSEWHERE = "move the file into a folder that only its owner can write to, such as /etc/replisync"

# Where a command for its mode would harm other people, or the system.
SYSTEM = (
    *("/", "/etc", "/etc/ssl", "/tmp", "/var", "/var/tmp", "/var/lib", "/usr", "/usr/local/bin"),  # noqa: S108
    *("/home", "/srv", "/opt", "/dev", "/proc", "/proc/self", "/run", "/sys", "/bin", "/boot"),
    *("/etc/passwd", "/dev/stdin", "/dev/null", "/proc/self/environ", "/usr/bin/env"),
)

ODD_NAMES = (
    "plain",
    "with space",
    "it's",
    'say "hi"',
    "-rf",
    "a\nb",
    "a\x1b[2Jb",
    "$(id)",
    "`id`",
    "a;b",
    "ü",
    "\\",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ours that everybody may write to."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def hint_of(check: Callable[[], None]) -> str:
    """Return the hint of a check that refuses."""
    with pytest.raises(UsageError) as caught:
        check()
    return caught.value.hint


def key_in(folder: Path) -> Path:
    """Return a private file in a folder."""
    path = folder / "main.key"
    path.write_text("key")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_is_one_word_of_a_shell_and_no_option(name: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"printf '%s|' {quoted(name)}"], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout in (f"{name}|", f"./{name}|")
    assert quoted(name).isprintable()
    assert not quoted(name).startswith("-")


@pytest.mark.parametrize("path", SYSTEM)
def test_nothing_of_the_system_is_given_another_mode(path: str) -> None:
    for change in ("go-w", "0600", "o-rwx"):
        assert chmod(change, path) is None


def test_what_is_ours_is(folder: Path) -> None:
    key = key_in(folder)
    assert chmod("go-w", folder) == f"`chmod go-w {folder}`"
    assert chmod("0600", key) == f"`chmod 0600 {key}`"
    assert not is_system("/etc/replisync/main.key")


def test_what_a_link_leads_to_is_meant(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    assert chmod("0600", folder / "link") is None
    (folder / "other").symlink_to(key_in(folder))
    assert chmod("0600", folder / "other") == f"`chmod 0600 {folder / 'main.key'}`"


@pytest.fixture(params=["sticky", "foreign", "a mount point", "of the system"])
def guarded(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody may write to, and whose mode is not ours to change."""
    if request.param == "sticky":
        folder.chmod(0o1777)
    elif request.param == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root gives folders to others")
        os.chown(folder, 12345, 12345)
    elif request.param == "of the system":
        folder = Path("/tmp")  # noqa: S108
        if not folder.stat().st_mode & stat.S_IWOTH:
            pytest.skip("it is not open here")
    if request.param != "a mount point":
        yield folder
        return
    with small_disk(tmp_path / "disk", 64) as disk:
        disk.root.chmod(0o777)
        yield disk.root


def test_no_message_tells_to_change_a_folder_that_others_need(guarded: Path, tmp_path: Path) -> None:
    """Each place that can tell to, here with the folder for a key, and for a serverdir."""
    key = guarded / f"replisync-{os.getpid()}.key"
    key.write_text("key")
    key.chmod(0o600)
    try:
        assert hint_of(lambda: check_private(key, "--replica-keyfile")) == ELSEWHERE
        assert hint_of(lambda: check_place(key)) == ELSEWHERE
        link = tmp_path / "link"
        link.symlink_to(key)
        assert hint_of(lambda: check_private(link, "--replica-keyfile")) == ELSEWHERE
    finally:
        key.unlink()
    log = RecordingLog()
    warn_of_readers(Serverdir(guarded), log)
    [(_, _, values)] = log.lines
    if guarded.stat().st_uid == os.geteuid() or guarded == Path("/tmp"):  # noqa: S108
        assert COMMAND.search(str(values["hint"])) is None
    else:
        # The owner of the serverdir, for whom root works, is the one whom it is about.
        assert values["hint"] == f"run `chmod o-rwx {guarded}`"


@ONLY_ROOT
def test_no_message_tells_to_change_a_file_that_others_need(folder: Path) -> None:
    folder.chmod(0o700)
    foreign = key_in(folder)
    foreign.chmod(0o644)
    os.chown(foreign, 12345, 12345)
    for path in (foreign, Path("/etc/passwd")):
        hint = hint_of(lambda path=path: check_private(path, "--secretfile"))  # type: ignore[misc]
        assert hint == f"copy it, with mode 0600, into{ELSEWHERE.removeprefix('move the file into')}"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_command_for_an_odd_name_does_what_it_says(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    folder.chmod(0o777)
    hint = hint_of(lambda: check_private(key_in(folder), "--replica-keyfile"))
    found = re.fullmatch("run `(.*)`", hint)
    assert found is not None
    subprocess.run(["bash", "-c", found[1]], check=True, cwd=tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    check_private(folder / "main.key", "--replica-keyfile")


def test_commands_that_could_harm_are_written_in_one_place() -> None:
    """So that no message gets round what is checked there."""
    found = set()
    for path in Path(replisync.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if id(node) not in docs and re.search(rf"`[^`]*{COMMAND.pattern}", text):
                found.add(path.name)
    assert found == {"advice.py"}


class TestKubernetes:
    """A secret that is mounted: links of root by way of `..data`, in a folder that is open and sticky."""

    pytestmark = ONLY_ROOT

    @pytest.fixture
    def key(self, folder: Path) -> Path:
        folder.chmod(0o1777)
        inner = folder / "..2026_11_22"
        inner.mkdir()
        key_in(inner).chmod(0o400)
        (folder / "..data").symlink_to(inner.name)
        (folder / "main.key").symlink_to("..data/main.key")
        return folder / "main.key"

    @pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
    def test_it_is_taken(self, key: Path, mode: int) -> None:
        key.resolve().chmod(mode)
        check_private(key, "--replica-keyfile")

    @pytest.mark.parametrize("mode", [0o444, 0o644, 0o460, 0o402])
    def test_one_that_others_may_read_or_write_is_refused_with_what_helps_there(
        self, key: Path, mode: int
    ) -> None:
        key.resolve().chmod(mode)
        hint = hint_of(lambda: check_private(key, "--replica-keyfile"))
        assert "`defaultMode: 0400`" in hint
        assert "`fsGroup`" in hint

    @pytest.mark.parametrize("part", ["main.key", "..data", "..2026_11_22"])
    def test_one_that_another_user_can_replace_is_refused(self, key: Path, part: str) -> None:
        os.chown(key.parent / part, 12345, 12345, follow_symlinks=False)
        assert hint_of(lambda: check_private(key, "--replica-keyfile")) == ELSEWHERE

    def test_one_in_a_folder_that_is_not_sticky_is_refused(self, key: Path) -> None:
        key.parent.chmod(0o777)
        hint_of(lambda: check_private(key, "--replica-keyfile"))

    def test_one_whose_inner_folder_is_open_is_refused(self, key: Path) -> None:
        key.resolve().parent.chmod(0o777)
        hint_of(lambda: check_private(key, "--replica-keyfile"))


def test_a_key_is_not_derived_for_a_place_from_which_no_command_takes_it(
    folder: Path, tmp_path: Path
) -> None:
    """That shows before the work: the secret is not even read."""
    said = run_here("derive-key", "--secretfile", tmp_path / "none", "--output", folder / "a b.key", code=2)
    assert "cannot write the key file" in said.message
    assert f"Run `chmod go-w {folder}`" in said.message
    folder.chmod(0o1777)
    said = run_here("derive-key", "--secretfile", tmp_path / "none", "--output", folder / "a b.key", code=2)
    assert ELSEWHERE[1:] in said.message
    assert list(folder.iterdir()) == []


@ONLY_ROOT
def test_a_key_that_root_writes_stays_roots_wherever_it_is(tmp_path: Path) -> None:
    serverdir = Serverdir(tmp_path / "standby")
    serverdir.prepare()
    for path in (serverdir.root, serverdir.own):
        os.chown(path, 12345, 12345)
    write_key(serverdir.root / "main.key", bytes(KEY_BYTES))
    serverdir.write_event_serial(1)
    owners = {path.name: path.stat().st_uid for path in serverdir.root.iterdir()}
    assert owners == {".replisync": 12345, ".event_serial": 12345, "main.key": 0}
