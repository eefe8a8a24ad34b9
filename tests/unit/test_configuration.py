"""Where an option's value comes from: flag, environment, file, default; and what is refused."""

import json
import os
from pathlib import Path

import click
import pytest

from replisync.cli.app import app, run
from replisync.cli.configuration import leaves
from replisync.cli.parameters import Duration, Size


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No option comes from whoever runs the tests."""
    for name in ("CONFIGFILE", "STATUS_SERVERDIR", "LOG_LEVEL", "LOG_FORMAT"):
        monkeypatch.delenv(f"REPLISYNC_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def config(tmp_path: Path, text: str) -> list[str]:
    """Return the option that names a configuration with this text."""
    path = tmp_path / "replisync.toml"
    path.write_text(text)
    return ["-c", str(path)]


class TestPrecedence:
    """`status` of a folder that is no standby names the folder that it was given."""

    def test_a_flag_comes_before_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("REPLISYNC_STATUS_SERVERDIR", "from-environment")
        file = config(tmp_path, "[status]\nserverdir = 'from-file'\n")
        assert run([*file, "status", "--serverdir", "from-flag"]) == 6
        assert "status of from-flag: " in capsys.readouterr().err

    def test_the_environment_comes_before_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("REPLISYNC_STATUS_SERVERDIR", "from-environment")
        assert run([*config(tmp_path, "[status]\nserverdir = 'from-file'\n"), "status"]) == 6
        assert "status of from-environment: " in capsys.readouterr().err

    def test_the_file_comes_before_the_default(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clone = ["clone", "--serverdir", "new", "--primary-url", "http://primary"]
        assert run([*config(tmp_path, "[clone]\nstorage = 'from-file'\n"), *clone]) == 2
        assert "'from-file' is not supported" in capsys.readouterr().err
        assert run(clone) == 2
        assert "cannot read --storage" not in capsys.readouterr().err

    def test_the_file_itself_may_be_named_by_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (_, path) = config(tmp_path, "[status]\nserverdir = 'from-file'\n")
        monkeypatch.setenv("REPLISYNC_CONFIGFILE", path)
        assert run(["status"]) == 6
        assert "status of from-file: " in capsys.readouterr().err

    def test_a_flag_of_the_file_holds_for_errors_too(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run([*config(tmp_path, "[status]\nserverdir = 'x'\njson = true\n"), "status"]) == 6
        assert json.loads(capsys.readouterr().out)["code"] == 6

    @pytest.mark.parametrize(
        "text",
        ["[faults]\nserverdir = 'from-file'\n", "[faults.list]\nserverdir = 'from-file'\n"],
    )
    def test_commands_of_a_group_take_their_own_table_or_that_of_the_group(
        self, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run([*config(tmp_path, text), "faults", "list"]) in (6, 7)
        assert "from-file" in capsys.readouterr().err

    def test_every_option_has_a_name_in_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("REPLISYNC_STATUS_SERVERDIR", "x")
        monkeypatch.setenv("REPLISYNC_STATUS_MAX_LAG_SERIALS", "many")
        assert run(["status"]) == 2
        assert "many" in capsys.readouterr().err
        monkeypatch.setenv("REPLISYNC_STATUS_MAX_LAG_SERIALS", "5")
        monkeypatch.setenv("REPLISYNC_STATUS_JSON", "1")
        assert run(["status"]) == 6
        assert json.loads(capsys.readouterr().out)["code"] == 6


class TestCommonSettings:
    """What says where and how need not be said for each command."""

    @pytest.mark.parametrize("command", [["status"], ["faults", "list"]])
    def test_a_setting_at_the_top_of_the_file_holds_for_each_command_that_has_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
    ) -> None:
        file = config(
            tmp_path, "serverdir = 'top'\nreplica-keyfile = 'k'\nlog-level = 'error'\nretention = '5d'\n"
        )
        assert run([*file, *command]) == 6
        assert " top: " in capsys.readouterr().err

    def test_the_nearer_source_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = config(tmp_path, "serverdir = 'top'\n[status]\nserverdir = 'table'\n")
        expected = ["table", "common", "own", "flag"]
        monkeypatch.setenv("REPLISYNC_LOG_LEVEL", "error")
        for name, variable in zip(expected, ["", "SERVERDIR", "STATUS_SERVERDIR", ""], strict=True):
            if variable:
                monkeypatch.setenv(f"REPLISYNC_{variable}", name)
            flag = ["--serverdir", name] if name == "flag" else []
            assert run([*file, "status", *flag]) == 6
            assert f" {name}: " in capsys.readouterr().err

    def test_what_is_to_be_done_is_not_common(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("REPLISYNC_TO_SERIAL", "5")
        assert run(["rewind", "--serverdir", "x"]) == 2
        assert "Missing option '--to-serial'" in capsys.readouterr().err


class TestBehindTheCommand:
    """Options of replisync itself are taken behind the command too."""

    def test_the_configuration(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (_, path) = config(tmp_path, "serverdir = 'top'\n[faults.list]\nserverdir = 'listed'\n")
        assert run(["status", "-c", path]) == 6
        assert " top: " in capsys.readouterr().err
        assert run(["faults", "list", "--configfile", path]) == 6
        assert " listed: " in capsys.readouterr().err
        assert run(["status", "-c", path, "--serverdir", "flag"]) == 6
        assert " flag: " in capsys.readouterr().err

    def test_level_and_format_of_the_log(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["status", "--serverdir", "x", "--log-level", "debug", "--log-format", "json"]) == 6
        assert run(["status", "--serverdir", "x", "--log-level", "loud"]) == 2
        assert capsys.readouterr().err.count("loud") == 1


class TestValues:
    """Units, and what is empty."""

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0), ("30d", 2_592_000.0)],
    )
    def test_a_length_of_time_may_have_a_unit(self, value: str, seconds: float) -> None:
        assert Duration().convert(value, None, None) == seconds

    def test_a_bare_number_has_the_units_that_the_option_always_had(self) -> None:
        assert Duration("d").convert("30", None, None) == 30.0
        assert Duration("d").convert(0.5, None, None) == 0.5
        assert Duration("d").convert("12h", None, None) == 0.5
        assert Size(1, 1 << 40).convert(64, None, None) == 64 * 1024**2
        assert Size(1, 1 << 40).convert("2g", None, None) == 2 * 1024**3

    @pytest.mark.parametrize(
        "value", ["", "soon", "-5", "5 minutes", "1e3", "nan", "5y", "99999999999", "4000d"]
    )
    def test_what_is_no_length_of_time_is_refused(self, value: str) -> None:
        with pytest.raises(click.BadParameter):
            Duration().convert(value, None, None)

    @pytest.mark.parametrize(
        "command",
        [
            ["status", "--serverdir", ""],
            ["clone", "--serverdir", "x", "--primary-url", ""],
            ["clone", "--serverdir", "x", "--primary-url", "http://x", "--replica-keyfile", ""],
            ["follow", "--serverdir", "x", "--file-replication-skip-indexes", ""],
            ["status", "--serverdir", "x", "--storage", ""],
            ["catchup", "--serverdir", "x", "--replica-file-search-path", ""],
        ],
    )
    def test_an_empty_value_is_refused(self, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """It is a variable that a script forgot to set, not the current folder."""
        assert run(command) == 2
        assert "empty" in capsys.readouterr().err


def test_help_begins_with_an_example_and_ends_with_the_documentation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path, command in leaves(app, ""):
        assert run([*path.split(), "--help"]) == 0
        text = capsys.readouterr().out
        assert f"$ replisync {path} " in text
        assert text.splitlines()[-1].startswith("More: https://")
        assert command.short_help
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "..." not in text.partition("Commands:")[2], "each command has its whole line"
    assert text.index("  clone ") < text.index("  follow ") < text.index("  catchup "), (
        "in the README's order"
    )


WRONG = {
    "an unknown command": "[nosuch]\nserverdir = 'x'\n",
    "an option that is not common": "to-serial = 5\n",
    "patience, which follow has without end": "patience = '5m'\n",
    "an option of replisync itself in a table": "[status]\nlog-level = 'error'\n",
    "a common option with a wrong value": "log-level = 'loud'\n",
    "an unknown option": "[status]\nserver-dir = 'x'\n",
    "an option of another command": "[status]\ntimeout = 5\n",
    "an option by its name in Python": "[clone]\nprimary_url = 'http://x'\n",
    "an unknown option of a group": "[faults]\ntimeout = 5\n",
    "an unknown command of a group": "[faults.nosuch]\nserverdir = 'x'\n",
    "a table where a value belongs": "[status.serverdir]\nx = 1\n",
    "a list of numbers": "[status]\nserverdir = [1, 2]\n",
    "a date": "[status]\nserverdir = 2026-11-22\n",
    "a number where a path belongs": "[status]\nserverdir = 7\n",
    "a list where a path belongs": "[status]\nserverdir = ['x']\n",
    "a path that no file can have": "[status]\nserverdir = 'x'\n[catchup]\nsecretfile = \"a\\u0000b\"\n",
    "too many brackets": f"[status]\nserverdir = {'[' * 3000}{']' * 3000}\n",
    "no TOML": "status: serverdir\n",
    "half a string": "[status]\nserverdir = 'x\n",
    "a number where a number is too small": "[status]\nserverdir = 'x'\nmax-lag-serials = -1\n",
    "text where a number belongs": "[status]\nserverdir = 'x'\nmax-lag-serials = 'many'\n",
}


class TestRefusals:
    """What the configuration cannot mean is refused: exit 2, and one line that names it."""

    @pytest.mark.parametrize("name", WRONG)
    def test_a_wrong_file_is_refused(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run([*config(tmp_path, WRONG[name]), "status", "--serverdir", "x"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("replisync: ")

    def test_a_file_that_is_not_text_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "x.toml").write_bytes(b"\xff\xfe\0")
        assert run(["-c", "x.toml", "status", "--serverdir", "x"]) == 2
        assert "x.toml" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["missing.toml", "."])
    def test_a_file_that_cannot_be_read_is_refused(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["-c", name, "status", "--serverdir", "x"]) == 2
        assert f"cannot read the configuration {name}: " in capsys.readouterr().err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["nosuch"],
            ["status"],
            ["status", "--nosuch"],
            ["status", "--serverdir"],
            ["--log-level", "loud", "status", "--serverdir", "x"],
            ["catchup", "--serverdir", "x", "--timeout", "0"],
            ["catchup", "--serverdir", "x", "--to-serial", "-1"],
            ["clone", "--serverdir", "x", "--primary-url", "http://x", "--file-replication-threads", "0"],
            ["faults", "skip", "--serverdir", "x"],
        ],
        ids=" ".join,
    )
    def test_a_wrong_command_line_is_refused_in_one_line(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("replisync: ")

    def test_errors_are_an_object_on_stdout_where_json_was_asked_for(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["status", "--serverdir", "x", "--json"]) == 6
        captured = capsys.readouterr()
        error = json.loads(captured.out)
        assert (error["code"], error["hint"]) == (6, "create one with `clone`")
        assert captured.err == f"replisync: {error['error']}\n"

    @pytest.mark.parametrize("arguments", [["--json", "status"], ["status", "--json", "--nosuch"]])
    def test_errors_of_the_command_line_are_an_object_too(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(arguments) == 2
        assert json.loads(capsys.readouterr().out)["code"] == 2

    def test_errors_are_an_object_where_the_environment_asks_for_json(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("REPLISYNC_STATUS_JSON", "1")
        assert run(["status"]) == 2
        assert json.loads(capsys.readouterr().out)["code"] == 2


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["promote"],
        ["catchup", "--secretfile", "x"],
        ["clone", "--secretfile", "x", "--primary-url", "http://127.0.0.1:9"],
        ["rewind", "--to-serial", "1"],
        ["faults", "list"],
        ["faults", "skip", "x"],
    ],
    ids=" ".join,
)
class TestFoldersThatCannotBe:
    """A folder that cannot be looked into is no bug of ours, whatever the command."""

    def test_a_name_that_is_too_long(self, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run([*command, "--serverdir", "x" * 300]) == 7
        assert "File name too long" in capsys.readouterr().err

    def test_a_name_that_is_not_utf8(self, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run([*command, "--serverdir", os.fsdecode(b"caf\xe9")]) == 2
        assert "its name is not UTF-8" in capsys.readouterr().err

    def test_a_file_in_its_place(
        self, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("x")
        assert run([*command, "--serverdir", str(tmp_path / "file")]) == 6
        said = capsys.readouterr().err
        assert ": not a replisync standby" in said or ": it is not empty" in said


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += _commands(command, (*path, name))
    return found


@pytest.mark.parametrize("path", _commands(app), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*path, "--help"]) == 0
    assert "Usage: replisync" in capsys.readouterr().out


def test_the_contracts_commands_are_there() -> None:
    names = {" ".join(path) for path in _commands(app)}
    assert names >= {"clone", "catchup", "follow", "status", "promote", "derive-key"}
    assert names >= {"faults list", "faults retry", "faults skip", "faults clear"}


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("replisync, version ")
