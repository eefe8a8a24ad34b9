"""What the small files and the row of the source say is compared, and asked of the primary."""

import os

import pytest

from replisync.errors import TargetUnusable
from replisync.verify import findings as kinds
from replisync.verify.run import Level
from tests.edges.standbys import Standby
from tests.edges.verify.damages import found


def test_a_nodeinfo_that_the_database_contradicts_is_the_primarys_to_judge(one: Standby) -> None:
    before = (one.root / ".nodeinfo").read_bytes()
    one.database.write("UPDATE replisync_source SET primary_uuid = 'damaged'")
    [finding] = one.repair(asks=False).findings
    assert finding.kind == kinds.IDENTITY
    assert "--replica-keyfile" in finding.remedy
    assert (one.root / ".nodeinfo").read_bytes() == before


def test_a_pipe_in_the_place_of_a_small_file_is_not_waited_for(one: Standby) -> None:
    (one.root / ".serverversion").unlink()
    os.mkfifo(one.root / ".serverversion")
    assert found(one, Level.QUICK) == {kinds.STATE_VERSION, kinds.PERMISSIONS}


def test_a_pipe_in_the_place_of_the_nodeinfo_is_not_waited_for(one: Standby) -> None:
    (one.root / ".nodeinfo").unlink()
    os.mkfifo(one.root / ".nodeinfo")
    assert found(one, Level.QUICK) == {kinds.IDENTITY, kinds.PERMISSIONS}
    assert one.repair(Level.QUICK).findings == []


def test_a_standby_that_lost_its_source_is_not_said_to_be_an_incomplete_clone(one: Standby) -> None:
    for statement in ("DELETE FROM replisync_source", "DROP TABLE replisync_source"):
        one.database.write(statement)
        with pytest.raises(TargetUnusable) as caught:
            one.look()
        assert "--reseed" in caught.value.hint
