"""A promotion while another server answers under the primary's name: nothing is lost in silence."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.devpi import Server
from tests.support.proxy import Proxy
from tests.support.runs import run_here
from tests.support.snapshot import assert_untouched, snapshot
from tests.support.standby import Standby

IMPATIENT = ("--patience", "1")


@dataclass(frozen=True)
class Site:
    """A primary whose name is a balancer's, and a standby of it that is at the first of two serials.

    name: where the primary is asked for.
    serial: where the standby is; the primary is one ahead.
    """

    primary: Server
    name: Proxy
    standby: Standby
    serial: int

    def answers(self, server: Server) -> None:
        """Let another server answer in the place of the primary, which is gone."""
        self.primary.stop()
        self.name.target_url = server.url
        self.name.drop_connections()

    def is_refused(self, *said: str) -> None:
        """Check that a promotion is refused as one that loses a serial, dry or not, and changes nothing."""
        before = snapshot(self.standby.serverdir)
        for dry in ((), ("--dry-run",)):
            refused = self.standby.promote(*dry, code=9)
            error = str(refused["error"])
            for word in (f"at serial {self.serial}:", f"is at serial {self.serial + 1}, 1 ahead", *said):
                assert word in error
            assert (refused["lost_serials"], refused["reachable"]) == (1, False)
            assert refused["primary_serial"] == self.serial + 1
            assert "--accept-loss" in refused["hint"]
        assert_untouched(self.standby.serverdir, before)


def replica_of(site_folder: Path, primary: Server) -> Server:
    """Return devpi's own replica of a primary, still to be started."""
    url, secretfile = primary.url, primary.secretfile
    return Server(site_folder / "replica", role="replica", primary_url=url, secretfile=secretfile)


@pytest.fixture
def site(tmp_path: Path, secretfile: Path) -> Iterator[Site]:
    """A standby that was told of a serial that it does not have, and a replica without it that is stopped."""
    with Server(tmp_path / "primary", secretfile=secretfile).init() as primary, Proxy(primary.url) as name:
        with Client(primary.url).login() as client:
            client.create_index("root/dev", volatile=True)
            client.upload_wheel("root/dev", "first", "1.0")
            standby = Standby(tmp_path / "standby", name.url, secretfile)
            standby.clone()
            with replica_of(tmp_path, primary).init() as replica:
                replica.wait_for_serial(primary.serial())
            serial = standby.serial
            client.upload_wheel("root/dev", "second", "1.0")
        yield Site(primary, name, standby, serial)


def test_a_replica_that_lags_hides_nothing_that_is_known(site: Site, tmp_path: Path) -> None:
    """The known serial is not overwritten by a lower one, whoever asks before the promotion."""
    site.standby.catchup("--to-serial", site.serial)
    site.primary.stop()
    with replica_of(tmp_path, site.primary) as replica:
        site.answers(replica)
        answers = f"a replica of the primary (UUID {replica.uuid()}) answers at {site.name.url}/"
        assert replica.serial() == site.serial
        found = site.standby.status()
        assert (found["state"], found["primary_serial"]) == ("stale", site.serial + 1)
        assert answers in found["reason"]
        said = site.standby.catchup(*IMPATIENT, code=3)
        assert answers in said.message
        assert "the primary itself does not" in said.message
        site.is_refused(answers)
        done = run_here("promote", *site.standby.own, "--accept-loss").stdout
    assert f"the old primary does not answer: {answers}" in done
    assert "lost: 1 serials" in done


def test_a_replica_that_has_more_shows_what_would_be_lost(site: Site, tmp_path: Path) -> None:
    """The primary has reached what its replica shows; that is remembered when the replica has gone too."""
    with replica_of(tmp_path, site.primary) as replica:
        replica.wait_for_serial(site.serial + 1)
        site.answers(replica)
        site.is_refused(
            f"(UUID {replica.uuid()}) answers", f"at serial {site.serial + 1}, the primary itself"
        )
        site.standby.catchup(*IMPATIENT, code=3)
    site.is_refused()
    assert site.standby.status()["primary_serial"] == site.serial + 1


def test_our_own_hot_standby_is_not_the_primary(site: Site) -> None:
    """A devpi-server on our serverdir, under the primary's name, shows our own serial."""
    site.standby.catchup("--to-serial", site.serial)
    options = {"role": "replica", "primary_url": site.name.url, "secretfile": site.primary.secretfile}
    with Server(site.standby.serverdir, requests_only=True, **options) as hot:  # type: ignore[arg-type]
        site.answers(hot)
        assert hot.serial() == site.serial
        found = site.standby.status()
        assert (found["state"], found["primary_serial"]) == ("stale", site.serial + 1)
        assert "our own standby answers" in site.standby.catchup(*IMPATIENT, code=3).message
        site.is_refused("our own standby answers")
        given_up = site.standby.promote("--dry-run", "--accept-loss")
        assert "stop it before the new primary starts" in str(given_up["warnings"])
        assert given_up["last_contact"]
        assert "behind by 1 serials or more" in run_here("status", *site.standby.own).stdout


@pytest.mark.parametrize(
    "effects", [{"status": 404}, {"status": 302, "location": "http://127.0.0.1:9/login"}]
)
def test_a_router_before_a_dead_primary_is_no_answer(site: Site, effects: dict[str, object]) -> None:
    """Nothing in it is devpi's: it is retried like a refused connection, and what is known counts."""
    site.standby.catchup("--to-serial", site.serial)
    with site.name.fault(**effects):
        site.primary.stop()
        site.standby.catchup(*IMPATIENT, code=3)
        site.is_refused()


def test_a_follower_waits_for_the_primary_itself(site: Site, tmp_path: Path) -> None:
    """A replica in its place is waited out, and then the primary's changes are applied."""
    with site.standby.follow() as follower, replica_of(tmp_path, site.primary) as replica:
        replica.wait_for_serial(site.serial + 1)
        site.answers(replica)
        follower.wait_for(lambda: "the primary itself does not" in follower.text, "the replica answers")
        site.primary.start()
        with Client(site.primary.url).login() as client:
            client.upload_wheel("root/dev", "third", "1.0")
        site.name.target_url = site.primary.url
        site.name.drop_connections()
        serial = site.primary.serial()
        follower.wait_for(lambda: site.standby.serial == serial, "the changes of the primary are here")
        follower.stop()
