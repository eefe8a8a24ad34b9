"""What runs left to do between a commit and its moves is no finding; what they never had to do is one."""

import pytest

from replisync.errors import TargetUnusable
from replisync.verify import findings as kinds
from replisync.verify.run import Level
from tests.edges.scenario import NOMD5, A, B, drop, put
from tests.edges.standbys import Standby, copied
from tests.edges.verify.damages import DAMAGES, found
from tests.fakes import Died, Trap

AHEAD = {
    "beside another": (A.replace("a-1.0", "a-1.1"), b"of any content", True),
    "a tox result": (f"{A}.toxresult-2.json", b"of any content", True),
    "of no digest": (NOMD5.replace("n-1.0", "n-2.0"), b"of any content", False),
}


@pytest.mark.parametrize(
    ("database", "name"),
    [("sqlite", name) for name in AHEAD] + [("postgres", "beside another")],
    indirect=["database"],
)
def test_a_file_that_came_before_a_kill_and_its_commit_is_no_finding(standby: Standby, name: str) -> None:
    """Whatever its path promises, and whoever ran since; it is one as soon as its serial has no such file."""
    relpath, content, _ = AHEAD[name]
    before = list(standby.server.entries)
    put(one=AHEAD[name])(standby.server)
    died = Trap(("files.place", 0), after=True)
    with pytest.raises(Died):
        standby.follow(trap=died)
    standby.server.trap = Trap()
    assert standby.read_file(relpath) == content
    assert standby.look().findings == []
    assert standby.repair(asks=False).findings == []
    assert standby.look().findings == []
    assert standby.read_file(relpath) == content
    standby.server.entries[:] = before
    standby.server.commit({})
    standby.follow()
    assert standby.look().findings == []
    standby.follow()  # which begins with what the commit left to do
    assert standby.read_file(relpath) is None
    assert standby.look().findings == []
    [(name,)] = standby.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", relpath)
    assert (standby.root / ".replisync" / "retained" / name).read_bytes() == content


def test_a_file_that_came_before_a_kill_is_committed_by_the_next_run(one: Standby) -> None:
    put(one=AHEAD["beside another"])(one.server)
    with pytest.raises(Died):
        one.follow(trap=Trap(("files.place", 0), after=True))
    one.server.trap = Trap()
    one.follow()
    assert one.look().findings == []
    assert one.database.read("SELECT * FROM replisync_pending") == []
    assert one.read_file(AHEAD["beside another"][0]) == b"of any content"


def test_a_file_that_must_be_here_is_not_dropped_whatever_is_noted(one: Standby) -> None:
    DAMAGES["a file that is to be dropped"].do(one)
    one.follow()
    assert one.read_file(B) == b"b" * 10
    one.remove_file(B)
    assert found(one, Level.FILES) == {kinds.PENDING_MOVE, kinds.MISSING_FILE}


def test_a_damaged_row_leads_no_run_out_of_the_folder_of_files(one: Standby) -> None:
    DAMAGES["a path of a move that leads out of the folder"].do(one)
    with pytest.raises(TargetUnusable) as caught:
        one.follow()
    assert "verify --repair" in caught.value.hint
    assert (one.root / ".sqlite").is_file()


def test_moves_that_a_commit_demands_are_no_findings(one: Standby) -> None:
    """One that was killed between a commit and its moves leaves everything to the next run."""
    put(b=(B, b"another" * 5, True))(one.server)
    drop(A)(one.server)
    calls = Trap()
    copy = copied(one, one.root.with_name("counted"))
    copy.server = one.server
    copy.follow(trap=calls)
    commits = [number for number, name in enumerate(calls.names) if name == "store.commit"]
    for number in commits:
        killed = copied(one, one.root.with_name(f"killed-{number}"))
        killed.server = one.server
        with pytest.raises(Died):
            killed.follow(trap=Trap(number, after=True))
        assert killed.look().findings == []
