"""Random histories of a real primary, replicated from random points on, judged by the strong oracle.

REPLISYNC_TEST_EXAMPLES sets how many histories there are, REPLISYNC_TEST_SEED the seed of the first one.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from tests.support.devpi import Server
from tests.support.operations import Operations
from tests.support.oracle import assert_equal_history, assert_files, assert_replicated
from tests.support.standby import Standby, settled
from tests.support.upstream import Upstream

EXAMPLES = int(os.environ.get("REPLISYNC_TEST_EXAMPLES") or 3)
# By chance, but the same for all processes that share one run of the tests.
_CHANCE = Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))  # noqa: S311 - not for secrets
FIRST_SEED = int(os.environ.get("REPLISYNC_TEST_SEED") or _CHANCE.randrange(1_000_000))
OPERATIONS = 30


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The upstream of one history."""
    with Upstream() as upstream:
        yield upstream


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + EXAMPLES))
def test_a_random_history_is_replicated_exactly(
    seed: int, tmp_path: Path, secretfile: Path, upstream: Upstream
) -> None:
    """Wherever the clone begins and the catchups end, the standby is what the primary was there."""
    random = Random(seed)  # noqa: S311 - not for secrets
    with Server(tmp_path / "primary", secretfile=secretfile).init() as primary:
        standby = Standby(tmp_path / "standby", primary.url, secretfile)
        begin = random.randrange(OPERATIONS * 2 // 3)
        with closing(Operations(primary, upstream, random)) as operations:
            for number in range(OPERATIONS):
                operations.one()
                print(f"serial {primary.serial()}: {operations.done[-1]}")
                if number == begin:
                    settled(primary)
                    standby.clone()
                    check(primary, standby, primary.serial())
                elif number > begin and random.random() < 0.25:
                    go_on(primary, standby, random)
        settled(primary)
        standby.catchup()
        assert standby.faults() == {}
        assert_replicated(primary, standby.serverdir)


def go_on(primary: Server, standby: Standby, random: Random) -> None:
    """Bring the standby up to date, or a part of the way, and check it there."""
    last = settled(primary)
    serial = random.randint(standby.serial, last)
    print(f"to serial {serial} of {last}")
    if serial < last:
        standby.catchup("--to-serial", serial)
        check(primary, standby, serial)
        return
    standby.catchup()
    # The primary may write down a file that it fetched for a mirror a moment after it has sent it.
    assert standby.serial >= last
    check(primary, standby, standby.serial)


def check(primary: Server, standby: Standby, serial: int) -> None:
    """Check that the standby is what the primary was at a serial."""
    assert standby.serial == serial
    assert_equal_history(primary.serverdir, standby.serverdir, serial)
    assert_files(primary.serverdir, standby.serverdir)
