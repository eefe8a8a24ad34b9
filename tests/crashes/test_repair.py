"""A repair that dies anywhere is finished by the next one."""

import pytest

from tests.edges.scenario import A, B
from tests.edges.standbys import Standby, copied
from tests.edges.verify.damages import DAMAGES, contents
from tests.fakes import Died, Trap

TOGETHER = (
    "a flipped byte in a file",
    "an extra file",
    "a stale temporary file of ours",
    "a key at an older serial",
    "an entry missing in the middle",
    "an entry missing at the end",
    "a wrong back serial",
    "the nodeinfo of another server",
    "events that are ahead",
    "a file that is said to be wanted",
)


CHANGES = ("store.commit", "store.in_the_transaction", "files.place", "files.retain", "files.remove")


def damage_together(standby: Standby) -> None:
    """Damage a standby in many ways."""
    index = "an index of PostgreSQL" if standby.in_postgres else "an index"
    for name in (*TOGETHER, f"{index} that let a key in twice"):
        DAMAGES[name].do(standby)
    standby.remove_file(A)
    standby.database.write("DELETE FROM replisync_files WHERE relpath = ?", A)


def test_a_repair_that_dies_in_any_call_is_finished_by_the_next_one(one: Standby) -> None:
    before = contents(one)
    damage_together(one)
    undisturbed = Trap()
    whole = copied(one, one.root.with_name("whole"))
    assert whole.repair(trap=undisturbed).findings == []
    assert contents(whole) == before
    tried = 0
    for at, call in enumerate(undisturbed.names):
        if not call.startswith(CHANGES):
            continue  # as dying in the next call that changes something
        for after in (False, True):
            died = copied(one, one.root.with_name(f"died-{at}-{after}"))
            with pytest.raises(Died):
                died.repair(trap=Trap(at, after=after))
            assert died.repair().findings == []
            assert contents(died) == before, f"after a death in call {at}, {call}"
            tried += 1
    assert tried > 20


def test_a_repair_that_dies_while_a_file_cannot_be_had_leaves_no_damaged_one_to_be_served(
    one: Standby,
) -> None:
    DAMAGES["a flipped byte in a file"].do(one)
    damaged = one.read_file(B)
    one.server.files[B] = 500
    undisturbed = Trap()
    copied(one, one.root.with_name("whole")).repair(trap=undisturbed)
    tried = 0
    for at, call in enumerate(undisturbed.names):
        if not call.startswith(CHANGES):
            continue
        for after in (False, True):
            died = copied(one, one.root.with_name(f"died-{at}-{after}"))
            died.server = one.server
            with pytest.raises(Died):
                died.repair(trap=Trap(at, after=after))
            died.repair()
            assert died.read_file(B) is None, f"after a death in call {at}, {call}"
            names = died.database.read("SELECT stored_as FROM replisync_retained WHERE relpath = ?", B)
            assert [(died.root / ".replisync/retained" / name).read_bytes() for [name] in names] == [damaged]
            assert died.look().known["files_missing"] == 2
            tried += 1
    assert tried > 3


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_repair_in_postgresql_that_dies_around_a_commit_is_finished_by_the_next_one(
    standby: Standby,
) -> None:
    before = contents(standby)
    damage_together(standby)
    undisturbed = Trap()
    assert standby.repair(trap=undisturbed).findings == []
    commits = [at for at, call in enumerate(undisturbed.names) if call == "store.commit"]
    assert len(commits) > 3
    for at in commits:
        damage_together(standby)
        with pytest.raises(Died):
            standby.repair(trap=Trap(at, after=True))
        assert standby.repair().findings == []
        assert contents(standby) == before
