"""The folder of an index is taken over as a whole, once, and never over what is there."""

from pathlib import Path

import pytest

from replisync.errors import LocalFailure
from replisync.standby.files.takeover import take_over

INDEX = "alice/dev"
NAME = "+f/abc/0123456789012/a-1.0.tar.gz"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Files of an index, and what is beside it."""
    for index in (INDEX, "alice/other"):
        path = tmp_path / "made" / index / NAME
        path.parent.mkdir(parents=True)
        path.write_text(index)
    return tmp_path / "made"


def test_a_folder_moves_to_its_place(made: Path, tmp_path: Path) -> None:
    files = tmp_path / "target/+files"
    assert take_over(made, files, INDEX)
    assert (files / INDEX / NAME).read_text() == INDEX
    assert not (made / INDEX).exists()
    assert (made / "alice/other" / NAME).exists()


def test_a_folder_that_an_interrupted_run_moved_is_known_again(made: Path, tmp_path: Path) -> None:
    files = tmp_path / "target/+files"
    for _ in range(2):
        assert take_over(made, files, INDEX)
    assert (files / INDEX / NAME).read_text() == INDEX


def test_what_is_in_place_already_stays(made: Path, tmp_path: Path) -> None:
    files = tmp_path / "target/+files"
    (files / INDEX).mkdir(parents=True)
    assert not take_over(made, files, INDEX)
    assert list((files / INDEX).iterdir()) == []
    assert (made / INDEX / NAME).exists()


@pytest.mark.parametrize("index", ["alice/none", "bob/none"])
def test_what_was_never_made_is_not_taken_for_moved(made: Path, tmp_path: Path, index: str) -> None:
    files = tmp_path / "target/+files"
    assert not take_over(made, files, index)
    (files / "bob/none").mkdir(parents=True)
    assert not take_over(made, files, index)


def test_a_folder_that_cannot_move_is_an_error(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LocalFailure):
        take_over(made, tmp_path / "file", INDEX)
    assert (made / INDEX / NAME).exists()
