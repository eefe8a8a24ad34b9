"""Secrets: which files are taken, and that nothing we say shows what is in them."""

import hashlib
import hmac
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replisync.cli.app import run
from replisync.cli.logs import make_logger
from replisync.devpi.tokens import KeyCost, TokenSigner, derive_key
from replisync.errors import UsageError
from replisync.primary.access import Access
from replisync.primary.connection import normalized_url
from replisync.primary.secretfiles import read_key, read_secret, replication_key, write_key

SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2-xyz"
CHEAP = KeyCost(memory=64, parallelism=1, time=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one's own."""
    tmp_path.chmod(0o700)
    return tmp_path


def secret(folder: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    """Write a secret file."""
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


class TestSecretFiles:
    """A secret is taken from a file exactly where devpi-server would take it."""

    def test_a_private_file_is_read(self, folder: Path) -> None:
        assert read_secret(secret(folder)) == SECRET.encode()

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o606, 0o620, 0o602, 0o610, 0o601, 0o644])
    def test_a_file_that_others_can_get_at_is_refused(self, folder: Path, mode: int) -> None:
        with pytest.raises(UsageError, match="others may read it") as caught:
            read_secret(secret(folder, mode=mode))
        assert "chmod 0600" in caught.value.hint

    @pytest.mark.parametrize("mode", [0o720, 0o702, 0o770, 0o777])
    def test_a_file_in_a_folder_that_others_can_write_to_is_refused(self, folder: Path, mode: int) -> None:
        path = secret(folder)
        folder.chmod(mode)
        with pytest.raises(UsageError, match="others may write to its folder"):
            read_secret(path)

    def test_a_link_to_a_file_in_a_folder_that_others_can_write_to_is_refused(self, folder: Path) -> None:
        shared, link = folder / "shared", folder / "link"
        shared.mkdir()
        link.symlink_to(secret(shared))
        assert read_secret(link) == SECRET.encode()
        shared.chmod(0o777)
        with pytest.raises(UsageError, match="others may write to its folder") as caught:
            read_secret(link)
        assert str(shared) in caught.value.hint

    def test_what_is_too_long_for_a_secret_is_not_read(self, folder: Path) -> None:
        path = secret(folder)
        os.truncate(path, 2**40)
        with pytest.raises(UsageError, match="more than"):
            read_secret(path)

    def test_a_named_pipe_that_nobody_writes_to_holds_nobody(self, folder: Path) -> None:
        path = folder / "pipe"
        os.mkfifo(path, 0o600)
        with pytest.raises(UsageError, match="too short"):
            read_secret(path)

    def test_a_pipe_is_read_to_its_end(self) -> None:
        """As a shell makes one of `--secretfile <(command)`, whose first words may take a while."""
        reading, writing = os.pipe()
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(read_secret, Path(f"/proc/self/fd/{reading}"))
            os.write(writing, SECRET[:20].encode())
            os.write(writing, SECRET[20:].encode())
            os.close(writing)
            assert found.result(10) == SECRET.encode()
        os.close(reading)

    @pytest.mark.parametrize("text", ["", "short", "a" * 64, "ababababab" * 10, "abcde" * 20])
    def test_a_secret_that_devpi_would_refuse_is_refused(self, folder: Path, text: str) -> None:
        with pytest.raises(UsageError, match="too short or too simple"):
            read_secret(secret(folder, text))

    def test_a_file_that_is_not_there_is_refused(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="No such file"):
            read_secret(folder / "nosuch")

    def test_a_folder_is_refused(self, folder: Path) -> None:
        with pytest.raises(UsageError):
            read_secret(folder)

    def test_without_any_file_both_options_are_named(self) -> None:
        with pytest.raises(UsageError, match="neither --secretfile nor --replica-keyfile"):
            replication_key(None, None, CHEAP)


class TestKeyFiles:
    """A key file opens the changelog as the secret does, and nothing else."""

    def test_a_key_comes_back_as_it_was_written(self, folder: Path) -> None:
        key = derive_key(SECRET.encode(), CHEAP)
        write_key(folder / "key", key)
        assert read_key(folder / "key") == key
        assert replication_key(None, folder / "key", CHEAP) == key
        assert replication_key(secret(folder), None, CHEAP) == key

    def test_a_key_file_is_private_from_the_first_moment(self, folder: Path) -> None:
        write_key(folder / "key", b"k" * 16)
        assert (folder / "key").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in folder.iterdir()] == ["key"]

    def test_a_key_is_not_written_into_what_somebody_else_put_there(self, folder: Path) -> None:
        """Who holds a file open under the temporary name would read the key, whatever its mode is later."""
        trap = folder / ".key.replisync-tmp"
        trap.touch(mode=0o666)
        with trap.open("rb") as held:
            write_key(folder / "key", b"k" * 16)
            assert held.read() == b""
        assert (folder / "key").stat().st_mode & 0o777 == 0o600

    def test_a_key_file_is_preferred_being_quicker(self, folder: Path) -> None:
        write_key(folder / "key", b"k" * 16)
        assert replication_key(folder / "nosuch", folder / "key", CHEAP) == b"k" * 16

    @pytest.mark.parametrize(
        "text",
        [SECRET, "", "replisync-replica-key-1:", "replisync-replica-key-1:xyz", "replisync-replica-key-2:00"],
    )
    def test_a_file_that_is_no_key_is_refused_without_showing_it(self, folder: Path, text: str) -> None:
        path = secret(folder, text)
        with pytest.raises(UsageError, match="derive-key") as caught:
            read_key(path)
        assert SECRET not in str(caught.value) + repr(caught.value)
        assert caught.value.__suppress_context__

    def test_a_key_file_that_others_may_read_is_refused(self, folder: Path) -> None:
        write_key(folder / "key", b"k" * 16)
        (folder / "key").chmod(0o644)
        with pytest.raises(UsageError, match="others may read it"):
            read_key(folder / "key")

    def test_the_key_depends_on_the_secret_and_cannot_be_the_secret(self) -> None:
        one, other = derive_key(SECRET.encode(), CHEAP), derive_key(SECRET.encode() + b"x", CHEAP)
        assert len(one) == 16
        assert one != other
        assert one not in SECRET.encode()


class TestTokens:
    """Tokens are devpi's: signed with its own code's key and form, valid by the primary's clock."""

    def test_devpis_own_serializer_takes_a_token(self) -> None:
        from itsdangerous import TimedSerializer

        key = derive_key(SECRET.encode(), CHEAP)
        now = 1_800_000_000.9
        token = TokenSigner(key, lambda: now).token("replica")
        uuid, moment = TimedSerializer(key).loads(token, return_timestamp=True)
        assert uuid == "replica"
        # A little in the past, for a primary whose clock is a little late.
        assert moment.timestamp() == 1_799_999_985

    @pytest.mark.parametrize("skew", [-3600, -1, 0, 1, 3600])
    def test_after_learning_the_primarys_time_a_token_is_never_from_its_future(self, skew: float) -> None:
        from itsdangerous import TimedSerializer

        ours = 1_800_000_000.75
        signer = TokenSigner(b"k" * 16, lambda: ours)
        theirs = ours + skew
        signer.keep(int(theirs) - ours)  # a Date header has whole seconds
        _, moment = TimedSerializer(b"k" * 16).loads(signer.token("r"), return_timestamp=True)
        assert theirs - 17 < moment.timestamp() <= theirs - 15

    def test_a_token_serves_for_some_seconds_and_is_made_anew_before_it_expires(self) -> None:
        now = [1_800_000_000.0]
        signer = TokenSigner(b"k" * 16, lambda: now[0])
        first = signer.token("r")
        now[0] += 3
        assert signer.token("r") == first
        now[0] += 30
        assert signer.token("r") != first
        now[0] -= 1000
        assert signer.token("r") != first

    def test_a_token_is_for_one_replica(self) -> None:
        signer = TokenSigner(b"k" * 16, lambda: 1_800_000_000.0)
        assert signer.token("one") != signer.token("other")

    def test_a_token_of_before_a_new_time_was_learned_is_not_used_again(self) -> None:
        signer = TokenSigner(b"k" * 16, lambda: 1_800_000_000.0)
        first = signer.token("r")
        signer.keep(3.0)
        assert signer.token("r") != first


def _leaks(text: str) -> bool:
    key = derive_key(SECRET.encode(), CHEAP)
    marks = (SECRET, SECRET[:12], key.hex(), repr(key)[2:-1], hmac.new(key, b"", hashlib.sha1).hexdigest())
    return any(mark in text for mark in marks)


class TestNothingIsShown:
    """Neither secret nor key nor password is in anything that we print, log or show."""

    def test_settings_hold_paths_alone(self, folder: Path) -> None:
        assert not _leaks(repr(Access(secretfile=secret(folder), keyfile=folder / "key", cost=CHEAP)))

    @pytest.mark.parametrize("form", ["json", "console"])
    def test_the_traceback_of_a_bug_has_no_values(self, form: str) -> None:
        stream = io.StringIO()

        def fail(secret: str) -> None:
            raise RuntimeError(f"a bug with {len(secret)} letters")

        try:
            fail(SECRET)
        except RuntimeError as err:
            make_logger("debug", form, stream).error("bug", exc_info=err)
        assert "a bug with" in stream.getvalue()
        assert "Traceback" in stream.getvalue()
        assert not _leaks(stream.getvalue())

    def test_a_signer_does_not_show_its_key(self) -> None:
        signer = TokenSigner(derive_key(SECRET.encode(), CHEAP), lambda: 1.8e9)
        assert not _leaks(repr(signer) + str(signer))

    @pytest.mark.parametrize(
        "url",
        [
            "http://user:hunter2@host/",
            "http://hunter2@host/",
            "http://user:hunter2/x@host/",
            "http://user:hunter2#x@host/",
            "http://user:hunter2?x@host/",
            "http://user:hunter2 x@host:99x/",
            "http://user:hunter2@[bad/",
            "http://user:hunter2\x01@host/",
            "http://user:hunter2:3141@host/",
            "ftp://user:hunter2@host/",
            "user:hunter2@host",
            "//user:hunter2@host",
        ],
    )
    def test_a_url_with_a_password_is_refused_without_showing_it(
        self, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(UsageError) as caught:
            normalized_url(url)
        assert "hunter2" not in str(caught.value) + repr(caught.value)
        assert run(["clone", "--serverdir", "nosuch/x", "--primary-url", url]) == 2
        captured = capsys.readouterr()
        assert "hunter2" not in captured.out + captured.err

    @pytest.mark.parametrize(
        "url", ["", "host", "http://", "http:///x", "file:///x", "http://h/?q=1", "http://h/#f"]
    )
    def test_what_is_no_url_of_a_server_is_refused(self, url: str) -> None:
        with pytest.raises(UsageError):
            normalized_url(url)

    @pytest.mark.parametrize("url", ["http://xn--/", "http://é..x/", "http://\0/", "http://h:99999999/"])
    def test_what_no_name_server_could_know_is_refused(self, url: str) -> None:
        with pytest.raises(UsageError):
            normalized_url(url)

    @pytest.mark.parametrize(
        ("url", "root"),
        [
            ("http://host", "http://host/"),
            ("http://host/", "http://host/"),
            ("https://host:3141/devpi", "https://host:3141/devpi/"),
            ("https://host/devpi//", "https://host/devpi/"),
            ("http://[::1]:3141", "http://[::1]:3141/"),
        ],
    )
    def test_the_url_of_a_server_ends_with_a_slash(self, url: str, root: str) -> None:
        assert normalized_url(url) == root

    def test_derive_key_says_where_and_not_what(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cost = ["--argon2-memory-cost", "64", "--argon2-parallelism", "1", "--argon2-time-cost", "1"]
        arguments = [
            "derive-key",
            "--secretfile",
            str(secret(folder)),
            "--output",
            str(folder / "key"),
            *cost,
        ]
        assert run(arguments) == 0
        captured = capsys.readouterr()
        assert str(folder / "key") in captured.out
        assert not _leaks(captured.out + captured.err)
        assert read_key(folder / "key") == derive_key(SECRET.encode(), CHEAP)

    @pytest.mark.parametrize("option", ["--secretfile", "--replica-keyfile"])
    def test_a_refused_file_is_named_and_not_shown(
        self, option: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = secret(folder, mode=0o644)
        arguments = ["clone", "--serverdir", str(folder / "x"), "--primary-url", "http://127.0.0.1:1", option]
        assert run([*arguments, str(path)]) == 2
        captured = capsys.readouterr()
        assert str(path) in captured.err
        assert not _leaks(captured.out + captured.err)
        assert not (folder / "x").exists()
