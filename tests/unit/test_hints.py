"""Commands in hints: values, written in one place with what the run was given."""

import ast
import json
import pickle
import re
from pathlib import Path

import pytest

import replisync
from replisync.cli.advice import teller
from replisync.cli.app import app, run
from replisync.errors import Advice, Hint, LocalFailure, telling

REWIND = Advice("rewind", to_serial=4690)
GIVEN = {"serverdir": Path("/srv/a b"), "replica_keyfile": Path("/etc/devpi/main.key")}


def test_a_command_is_written_with_its_options() -> None:
    assert str(REWIND) == "`replisync rewind --to-serial 4690`"
    assert Advice("verify", repair=True, level="full").command == "replisync verify --repair --level full"


def test_a_hint_is_rendered_when_it_is_shown_also_inside_another() -> None:
    hint = Hint("{}; then {}", Hint("go back with {}", REWIND), "wait")
    error = LocalFailure("cannot go on", "it ended", hint=hint)
    assert str(error).endswith("Go back with `replisync rewind --to-serial 4690`; then wait.")
    token = telling.set(lambda advice: advice.words)
    assert str(error).endswith("Go back with `rewind`; then wait.")
    telling.reset(token)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


class TestTheCommandLine:
    """What it adds to a command."""

    def test_each_command_gets_the_options_that_it_has(self) -> None:
        tell = teller(app, GIVEN, None)
        standby = "--serverdir '/srv/a b'"
        assert tell(Advice("faults list")) == f"replisync faults list {standby}"
        assert tell(REWIND) == (
            f"replisync rewind --to-serial 4690 {standby} --replica-keyfile /etc/devpi/main.key"
        )

    def test_the_configuration_comes_first_and_paths_are_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        tell = teller(app, {"serverdir": Path("-x")}, Path("a.toml"))
        assert tell(Advice("status")) == (
            f"replisync --configfile {tmp_path}/a.toml status --serverdir {tmp_path}/-x"
        )

    def test_an_option_of_the_hint_itself_stays(self) -> None:
        tell = teller(app, GIVEN, None)
        assert tell(Advice("status", serverdir="/srv/other")) == "replisync status --serverdir /srv/other"

    def test_a_run_adds_what_it_was_given_wherever_that_comes_from(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        standby, config = tmp_path / "standby", tmp_path / "replisync.toml"
        (standby / ".replisync").mkdir(parents=True)
        (standby / ".nodeinfo").write_text('{"role": "replica"}')
        config.write_text(f'[clone]\nreplica-keyfile = "{tmp_path}/key"\nprimary-url = "http://localhost"\n')
        assert run(["-c", str(config), "clone", "--serverdir", str(standby), "--json"]) == 6
        captured = capsys.readouterr()
        command = (
            f"replisync --configfile {config} catchup --serverdir {standby} --replica-keyfile {tmp_path}/key"
        )
        assert f"`{command}`" in captured.err
        assert f"`{command}`" in json.loads(captured.out)["hint"]
        assert telling.get() is Advice.spelled, "it ends with the run"


def test_no_message_names_a_command_as_prose() -> None:
    """It is a value, so that it is written with what its run was given."""
    named = re.compile(rf"replisync ({'|'.join(app.commands)})\b")
    found = []
    for path in sorted(Path(replisync.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            f"{path.name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docs
            and named.search(node.value)
        ]
    assert found == []
