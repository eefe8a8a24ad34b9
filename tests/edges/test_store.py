"""What every store promises: one transaction for each batch, our own state in it, nobody else's writes."""

import threading

import pytest

from replisync.changelog.plan import WantedFile
from replisync.changelog.records import Commit, Contact, Fault, FileCounts, Pending, Source
from replisync.changelog.witness import witness
from replisync.devpi.keys import Digest
from replisync.errors import ForeignWriter, TargetUnusable
from replisync.standby.database import audit
from replisync.standby.database.store import Store
from tests.edges.conftest import Database, commit, entry, file

NOW, LATER = "2026-11-22T11:39:23.000Z", "2026-11-22T11:40:00.000Z"
A, B, C = "u/dev/+f/abc/def/a.zip", "u/dev/+f/123/456/b.zip", "u/pypi/+e/x_y/c.zip"

USER = {"u/.config": ("USER", -1, {"indexes": {"dev": {"type": "stage"}, "pypi": {"type": "mirror"}}})}


class TestPosition:
    """The last serial of the changelog is the position, and there is no other."""

    def test_an_empty_target_is_before_serial_0(self, store: Store) -> None:
        assert store.last_serial() == -1
        assert store.entry_data(0) is None

    def test_a_commit_moves_it_to_the_end_of_its_batch(self, store: Store, database: Database) -> None:
        assert not store.apply(commit(entry(0), entry(1), entry(2)), 5, NOW)
        assert store.last_serial() == 2
        assert store.entry_data(1) == entry(1).data
        assert database.read("SELECT serial FROM changelog ORDER BY serial") == [(0,), (1,), (2,)]

    @pytest.mark.parametrize("first", [0, 1, 2, 4, 100])
    def test_a_batch_that_does_not_follow_is_a_foreign_writers_doing(
        self, store: Store, database: Database, first: int
    ) -> None:
        store.apply(commit(entry(0), entry(1), entry(2)), 5, NOW)
        with pytest.raises(ForeignWriter, match="the target is at serial 2") as caught:
            store.apply(commit(entry(first), entry(first + 1)), 5, NOW)
        assert caught.value.serial == first
        assert database.read("SELECT count(*) FROM changelog") == [(3,)]
        assert store.last_serial() == 2

    def test_a_row_of_somebody_else_is_noticed_before_anything_is_written(
        self, store: Store, database: Database
    ) -> None:
        store.apply(commit(entry(0, USER)), 5, NOW)
        database.write("INSERT INTO changelog (serial, data) VALUES (1, ?)", b"foreign")
        with pytest.raises(ForeignWriter):
            store.apply(commit(entry(1, {"x": ("PLUGIN", -1, 1)})), 5, NOW)
        assert database.read("SELECT data FROM changelog WHERE serial = 1") == [(b"foreign",)]
        assert database.read("SELECT count(*) FROM kv WHERE key = 'x'") == [(0,)]

    def test_a_batch_that_follows_a_row_of_another_writer_is_refused(
        self, store: Store, database: Database
    ) -> None:
        store.apply(commit(entry(0, USER)), 5, NOW)
        database.write("INSERT INTO changelog (serial, data) VALUES (1, ?)", b"foreign")
        with pytest.raises(ForeignWriter, match="our last commit was 0"):
            store.apply(commit(entry(2, {"x": ("PLUGIN", -1, 1)})), 5, NOW)
        assert store.last_serial() == 1


class TestKeys:
    """Keys point at the last serial that changed them."""

    def test_a_key_has_its_kind_and_its_last_serial(self, store: Store, database: Database) -> None:
        store.apply(commit(entry(0, USER), entry(1, {A: ("STAGEFILE", -1, file())}), entry(2, USER)), 2, NOW)
        assert database.read("SELECT key, keyname, serial FROM kv ORDER BY key") == [
            ("u/.config", "USER", 2),
            (A, "STAGEFILE", 1),
        ]

    def test_the_row_of_a_deleted_key_stays(self, store: Store, database: Database) -> None:
        store.apply(
            commit(entry(0, {A: ("STAGEFILE", -1, file())}), entry(1, {A: ("STAGEFILE", 0, None)})), 1, NOW
        )
        assert database.read("SELECT serial FROM kv") == [(1,)]
        assert store.value(A) is None

    def test_values_are_those_of_the_last_serial(self, store: Store) -> None:
        store.apply(commit(entry(0, {A: ("STAGEFILE", -1, file("a" * 64))})), 1, NOW)
        store.apply(commit(entry(1, {A: ("STAGEFILE", 0, file("b" * 64))})), 1, NOW)
        assert store.value(A) == file("b" * 64)
        assert store.value("nosuch") is None

    def test_types_of_indexes_are_those_of_their_users(self, store: Store) -> None:
        store.apply(commit(entry(0, USER)), 0, NOW)
        types = [store.index_type(index) for index in ("u/dev", "u/pypi", "u/nosuch", "nobody/dev")]
        assert types == ["stage", "mirror", None, None]

    def test_more_keys_than_a_statement_can_have_are_written_in_one_batch(
        self, store: Store, database: Database
    ) -> None:
        paths = [f"u/dev/+f/{number:03x}/x/é {number}.zip" for number in range(2500)]
        changes = {path: ("STAGEFILE", -1, file()) for path in paths}
        sizes = {path: number for number, path in enumerate(paths)}
        store.apply(commit(entry(0, changes), present=sizes), 0, NOW)
        assert store.file_counts() == FileCounts(2500, 0, 0)
        dropped = entry(1, dict.fromkeys(paths, ("STAGEFILE", 0, None)))
        assert store.apply(commit(dropped, leaving=frozenset(paths)), 1, NOW)
        assert store.file_counts() == FileCounts(0, 0, 0)
        assert len(store.pending()) == 2500
        store.settle(store.pending(), [])
        assert store.pending() == []
        assert database.read("SELECT count(*), min(serial) FROM kv") == [(2500, 1)]

    def test_many_entries_are_written_in_one_batch(self, store: Store, database: Database) -> None:
        store.apply(commit(*(entry(serial) for serial in range(1201))), 1200, NOW)
        assert database.read("SELECT count(*), max(serial) FROM changelog") == [(1201, 1200)]

    def test_a_batch_may_have_no_changes_at_all(self, store: Store) -> None:
        store.apply(commit(entry(0)), 0, NOW)
        assert store.last_serial() == 0


class TestTransactions:
    """All of a commit or nothing of it, for whoever looks from outside."""

    def test_others_see_nothing_before_the_commit_and_everything_after(self, database: Database) -> None:
        seen: list[list[tuple[int]]] = []
        opened = threading.Event()

        def look() -> None:
            if opened.is_set():
                seen.append(database.read("SELECT count(*) FROM changelog"))

        with database.open(guard=look) as store:
            opened.set()
            store.apply(commit(entry(0, USER), entry(1)), 1, NOW)
            store.apply(commit(entry(2)), 2, NOW)
        assert seen == [[(0,)], [(2,)]]

    def test_the_guard_is_asked_inside_of_each_writing_transaction_and_ends_it(
        self, database: Database
    ) -> None:
        allowed = True

        def guard() -> None:
            if not allowed:
                raise TargetUnusable("cannot open the target", "it was promoted")

        with database.open(guard=guard) as store:
            store.apply(commit(entry(0, {A: ("STAGEFILE", -1, file())}), present={A: 5}), 0, NOW)
            number = store.begin_run("catchup", NOW)
            allowed = False
            before = dump(database)
            for act in (
                lambda: store.apply(commit(entry(1)), 1, NOW),
                lambda: store.put_contact(7, NOW),
                lambda: store.put_faults((Fault(A, 0, "held", "x"),)),
                lambda: store.files_arrived({A: 6}),
                lambda: store.settle([Pending(A, 0, "drop", None)], []),
                lambda: store.begin_run("follow", NOW),
                lambda: store.put_run(number, outcome="ok"),
                lambda: store.put_source(SOURCE),
                lambda: store.clear_faults([A]),
                lambda: store.change_faults({"next_try": NOW}),
                lambda: store.forget_retained(["x"]),
            ):
                with pytest.raises(TargetUnusable, match="promoted"):
                    act()
            assert dump(database) == before
            assert store.last_serial() == 0
            allowed = True
            store.apply(commit(entry(1)), 1, NOW)

    def test_an_error_in_the_middle_of_a_commit_leaves_nothing_of_it(
        self, store: Store, database: Database
    ) -> None:
        before = dump(database)

        bad = commit(entry(0, {A: ("STAGEFILE", -1, file())}))
        bad.faults = (Fault(A, 0, "mirror", "x"), None)  # type: ignore[assignment]
        with pytest.raises(AttributeError):
            store.apply(bad, 0, NOW)
        assert dump(database) == before
        assert store.last_serial() == -1


def dump(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of all tables that a commit writes."""
    tables = ("changelog", "kv", *(f"replisync_{name}" for name in OURS))
    return {name: database.read(f"SELECT * FROM {name}") for name in tables}  # noqa: S608 - names of ours


OURS = ("source", "contact", "runs", "timeline", "files", "faults", "pending", "retained")
SOURCE = Source("http://p/", "puuid", "uuid", "sqlite", "changelog", NOW)


class TestLedger:
    """Each file that the live keys demand, and where it stands."""

    def test_what_came_with_the_commit_is_present_and_the_rest_is_as_the_commit_says(
        self, store: Store
    ) -> None:
        changes = {path: ("STAGEFILE", -1, file()) for path in (A, B, C)}
        store.apply(commit(entry(0, changes), present={A: 5}, absent={B: "gone"}), 0, NOW)
        assert store.file_counts() == FileCounts(total=3, missing=2, absent=1)
        assert store.wanted_indexes() == ["u/pypi"]
        assert store.wanted_file(C) == WantedFile(C, 0, Digest("sha256", "a" * 64))
        assert store.wanted_file(A) is None
        assert store.wanted_file(B) is None

    def test_wanted_files_come_by_index_in_order_and_in_pieces(self, store: Store) -> None:
        paths = [f"u/dev/{name}" for name in ("a", "b", "c", "+f/z")] + ["u/dev2/a", "u/de/a", "u/dev"]
        store.apply(commit(entry(0, {path: ("STAGEFILE", -1, file()) for path in paths})), 0, NOW)
        first = store.wanted_files("u/dev", "", 2)
        assert [one.relpath for one in first] == ["u/dev/+f/z", "u/dev/a"]
        rest = store.wanted_files("u/dev", first[-1].relpath, 10)
        assert [one.relpath for one in rest] == ["u/dev/b", "u/dev/c"]
        assert store.wanted_files("u/dev", rest[-1].relpath, 10) == []

    def test_files_without_a_digest_are_wanted_without_one(self, store: Store) -> None:
        store.apply(commit(entry(0, {C: ("PYPIFILE_NOMD5", -1, {"last_modified": "x"})})), 0, NOW)
        assert store.wanted_file(C) == WantedFile(C, 0, None)

    def test_files_that_arrive_later_become_present_or_absent_and_lose_their_faults(
        self, store: Store
    ) -> None:
        changes = {path: ("STAGEFILE", -1, file()) for path in (A, B, C)}
        store.apply(commit(entry(0, changes)), 0, NOW)
        store.put_faults(tuple(Fault(path, 0, "held", "x") for path in (A, B, C)))
        store.files_arrived({A: 7}, {B: "gone"}, (Fault(C, 0, "mirror", "404"),))
        assert store.file_counts() == FileCounts(3, 2, 1)
        assert [(fault.relpath, fault.kind, fault.tries) for fault in store.faults()] == [(C, "mirror", 2)]

    def test_a_new_value_makes_a_file_wanted_again(self, store: Store) -> None:
        store.apply(commit(entry(0, {A: ("STAGEFILE", -1, file("a" * 64))}), present={A: 5}), 0, NOW)
        store.apply(commit(entry(1, {A: ("STAGEFILE", 0, file("b" * 64))})), 1, NOW)
        assert store.wanted_file(A) == WantedFile(A, 1, Digest("sha256", "b" * 64))

    def test_only_files_of_private_stages_count_as_missing_for_a_promotion(self, store: Store) -> None:
        changes = {path: ("STAGEFILE", -1, file()) for path in (A, B, C, "u/nosuch/x")}
        store.apply(commit(entry(0, USER), entry(1, changes), present={B: 1}), 1, NOW)
        assert store.missing_private_files() == 1

    def test_forgotten_files_are_wanted_and_nobodys_fault(self, store: Store) -> None:
        store.apply(
            commit(entry(0, {path: ("STAGEFILE", -1, file()) for path in (A, B)}), present={}), 0, NOW
        )
        store.put_faults((Fault(A, 0, "mirror", "x"),))
        assert [one.relpath for one in store.forgotten_files("", 10)] == [B]


def dropping(serial: int, path: str) -> Commit:
    """Return the commit of an entry that drops a file which is in place."""
    return commit(entry(serial, {path: ("STAGEFILE", 0, None)}), leaving=frozenset([path]))


class TestMoves:
    """Moves on disk that a commit demands are remembered with it, and forgotten when they are done."""

    def test_dropping_a_file_that_is_here_is_a_move(self, store: Store) -> None:
        store.apply(commit(entry(0, {A: ("STAGEFILE", -1, file())}), present={A: 5}), 0, NOW)
        assert store.apply(dropping(1, A), 1, NOW)
        assert store.pending() == [Pending(A, 1, "drop", None)]
        assert store.file_counts().total == 0

    def test_dropping_what_is_not_here_is_none(self, store: Store) -> None:
        store.apply(commit(entry(0, {A: ("STAGEFILE", -1, {"url": "x"})})), 0, NOW)
        assert not store.apply(
            commit(entry(1, {A: ("STAGEFILE", 0, None), B: ("STAGEFILE", -1, None)})), 1, NOW
        )
        assert store.pending() == []

    def test_replacing_content_is_a_move(self, store: Store) -> None:
        store.apply(commit(entry(0, {A: ("STAGEFILE", -1, file())}), present={A: 5}), 0, NOW)
        replaced = commit(entry(1, {A: ("STAGEFILE", 0, file("b" * 64))}), present={A: 6}, staged={A: "name"})
        assert store.apply(replaced, 1, NOW)
        assert store.pending() == [Pending(A, 1, "replace", "name")]
        assert store.file_counts() == FileCounts(1, 0, 0)

    def test_a_file_that_is_wanted_again_is_not_moved_away_any_more(self, store: Store) -> None:
        store.apply(commit(entry(0, {A: ("STAGEFILE", -1, file())}), present={A: 5}), 0, NOW)
        store.apply(dropping(1, A), 1, NOW)
        store.apply(commit(entry(2, {A: ("STAGEFILE", 1, file())}), present={A: 5}), 2, NOW)
        assert store.pending() == []

    def test_the_latest_demand_of_a_file_counts(self, store: Store) -> None:
        store.apply(commit(entry(0, {A: ("STAGEFILE", -1, file())}), present={A: 5}), 0, NOW)
        store.apply(commit(entry(1, {A: ("STAGEFILE", 0, file())}), present={A: 5}, staged={A: "n"}), 1, NOW)
        store.apply(dropping(2, A), 2, NOW)
        assert store.pending() == [Pending(A, 2, "drop", None)]

    def test_settling_forgets_the_moves_and_remembers_what_was_put_aside_and_can_be_repeated(
        self, store: Store, database: Database
    ) -> None:
        store.apply(commit(entry(0, {A: ("STAGEFILE", -1, file())}), present={A: 5}), 0, NOW)
        store.apply(dropping(1, A), 1, NOW)
        row = {"stored_as": "1-x", "relpath": A, "serial": 1, "retained_at": NOW}
        for moment in (NOW, LATER):
            store.settle([Pending(A, 1, "drop", None)], [row | {"retained_at": moment}])
            assert store.pending() == []
        assert database.read("SELECT relpath, serial, retained_at FROM replisync_retained") == [(A, 1, LATER)]


class TestFaults:
    """Files that could not be had, with the number of tries."""

    def test_a_fault_is_remembered_and_counts_its_tries(self, store: Store) -> None:
        store.put_faults((Fault(B, 3, "held", "404"), Fault(A, 2, "mirror", "502", 1, LATER)))
        store.put_faults((Fault(B, 4, "held", "500"),))
        assert store.faults() == [Fault(B, 4, "held", "500", 2), Fault(A, 2, "mirror", "502", 1, LATER)]

    def test_faults_are_found_by_file_and_by_the_time_of_their_next_try(self, store: Store) -> None:
        now, held = Fault(A, 0, "mirror", "x", 1, NOW), Fault(B, 0, "held", "x")
        later, soon = Fault(C, 0, "mirror", "x", 1, LATER), Fault("z", 0, "skipped", "x", 1, NOW)
        changes = {path: ("STAGEFILE", -1, file()) for path in (A, B, C, "z")}
        store.apply(commit(entry(0, changes)), 0, NOW)
        store.put_faults((now, held, later, soon, Fault("../x", 0, "unfetchable", "x", 1, NOW)))
        assert store.fault_count() == 5
        assert store.faults_of([C, "nosuch", B]) == {B: held, C: later}
        assert store.faults_of([]) == {}
        assert store.faults_due(NOW, LATER, 10) == {A: now, "z": soon}
        assert len(store.faults_due(LATER, LATER, 2)) == 2
        before = "2026-11-22T11:39:22.000Z"
        assert store.faults_due(before, before, 10).keys() == {A, C, "z"}, (
            "they are all due too late to be true"
        )

    def test_a_commit_brings_its_faults_and_takes_those_of_what_it_has(self, store: Store) -> None:
        store.put_faults((Fault(A, 0, "held", "x"), Fault(B, 0, "held", "x"), Fault(C, 0, "mirror", "x")))
        changes = {A: ("STAGEFILE", -1, file()), B: ("STAGEFILE", -1, None), C: ("STAGEFILE", -1, file())}
        store.apply(commit(entry(0, changes), present={A: 1}, faults=(Fault(C, 0, "mirror", "y"),)), 0, NOW)
        assert store.faults() == [Fault(C, 0, "mirror", "y", 2)]
        assert store.wanted_file(C) is not None

    def test_faults_can_be_changed_and_cleared(self, store: Store) -> None:
        store.put_faults((Fault(A, 0, "held", "x"), Fault(B, 0, "mirror", "x")))
        store.change_faults({"next_try": NOW})
        assert {fault.next_try for fault in store.faults()} == {NOW}
        store.clear_faults([A, "nosuch"])
        assert [fault.relpath for fault in store.faults()] == [B]


class TestState:
    """Where from, when last heard of, and what ran."""

    def test_the_source_is_one_row(self, store: Store, database: Database) -> None:
        assert store.source() is None
        store.put_source(SOURCE)
        store.put_source(Source("http://q/", "puuid", "uuid", "sqlite", "changelog", NOW, 7, LATER))
        assert store.source() == Source("http://q/", "puuid", "uuid", "sqlite", "changelog", NOW, 7, LATER)
        assert database.read("SELECT count(*) FROM replisync_source") == [(1,)]

    def test_being_in_sync_is_remembered_for_when_we_are_not(self, store: Store) -> None:
        assert store.contact() is None
        store.apply(commit(entry(0)), 0, NOW)
        assert store.contact() == Contact(NOW, 0, NOW)
        store.put_contact(5, LATER)
        assert store.contact() == Contact(LATER, 5, NOW)
        store.apply(commit(entry(1)), 5, LATER)
        assert store.contact() == Contact(LATER, 5, NOW)

    def test_the_known_serial_of_the_primary_only_grows(self, store: Store) -> None:
        """But for the primary's own word, once its history was compared with ours."""
        store.raise_known_serial(3)  # of a primary that never was heard of
        assert store.contact() is None
        store.apply(commit(entry(0)), 7, NOW)
        for lower in (
            lambda: store.put_contact(5, NOW),
            lambda: store.apply(commit(entry(1)), 1, NOW),
            lambda: store.raise_known_serial(6),
        ):
            lower()
            assert store.contact() == Contact(NOW, 7, None)
        store.raise_known_serial(9)
        assert store.contact() == Contact(NOW, 9, None)
        assert store.put_agreement(4, LATER) == 9
        assert store.contact() == Contact(LATER, 4, None)
        assert store.put_agreement(4, LATER) == 4

    def test_a_target_that_never_was_in_sync_says_so(self, store: Store) -> None:
        store.apply(commit(entry(0)), 9, NOW)
        assert store.contact() == Contact(NOW, 9, None)

    def test_each_commit_is_in_the_timeline(self, store: Store, database: Database) -> None:
        store.apply(commit(entry(0), entry(1)), 2, NOW)
        store.apply(commit(entry(2)), 2, LATER)
        rows = database.read("SELECT serial, committed_at FROM replisync_timeline ORDER BY serial")
        assert rows == [(1, NOW), (2, LATER)]

    def test_each_entry_has_a_witness_beside_its_commit(self, store: Store) -> None:
        one, two, three = (entry(serial) for serial in range(3))
        store.apply(commit(one, two), 2, NOW)
        store.apply(commit(three), 2, LATER)
        assert audit.witnesses(store, 0, 2) == dict(enumerate(map(witness, (one.data, two.data, three.data))))
        assert audit.witnesses(store, 1, 1) == {1: witness(two.data)}
        assert audit.entry_now(store, 2) == (three.data, witness(three.data))

    def test_only_what_is_stored_gets_the_witness_of_what_was_compared(
        self, store: Store, database: Database
    ) -> None:
        entries = [entry(serial) for serial in range(4)]
        store.apply(commit(entries[0]), 3, NOW)
        store.apply(commit(*entries[1:]), 3, NOW)
        database.write("UPDATE replisync_timeline SET witnesses = NULL")
        assert audit.witnesses(store, 0, 3) == {}
        right = {serial: witness(entries[serial].data) for serial in (1, 3)}
        store.put_witnesses({**right, 2: witness(b"another"), 7: witness(b"none")})
        assert audit.witnesses(store, 0, 3) == right
        store.put_witnesses({0: witness(entries[0].data)})
        assert audit.witnesses(store, 0, 3) == {0: witness(entries[0].data), **right}

    def test_a_run_has_a_beginning_an_end_and_its_serials(self, store: Store) -> None:
        assert store.last_run() is None
        store.apply(commit(entry(0)), 0, NOW)
        number = store.begin_run("catchup", NOW)
        run = store.last_run()
        assert run is not None
        assert (run.command, run.outcome, run.from_serial, run.to_serial) == ("catchup", "running", 0, None)
        store.apply(commit(entry(1)), 1, NOW)
        store.put_run(number, outcome="ok", exit_code=0, finished=LATER, files=3, bytes=9, seconds=1.5)
        run = store.last_run()
        assert run is not None
        assert (run.outcome, run.to_serial, run.files, run.bytes, run.seconds) == ("ok", 1, 3, 9, 1.5)
        assert (run.started, run.finished, run.exit_code, run.error) == (NOW, LATER, 0, None)

    def test_a_run_that_never_ended_was_killed(self, store: Store, database: Database) -> None:
        first = store.begin_run("follow", NOW)
        second = store.begin_run("catchup", LATER)
        assert second > first
        assert database.read("SELECT outcome FROM replisync_runs ORDER BY id") == [("killed",), ("running",)]

    def test_runs_do_not_grow_without_bound(self, store: Store, database: Database) -> None:
        for _ in range(3):
            store.begin_run("catchup", NOW)
        database.write("UPDATE replisync_runs SET id = id + 100000 WHERE id = 3")
        store.begin_run("catchup", NOW)
        assert database.read("SELECT count(*) FROM replisync_runs") == [(2,)]


def test_a_store_that_is_opened_again_knows_everything(database: Database) -> None:
    with database.open() as store:
        store.apply(commit(entry(0, USER), entry(1, {A: ("STAGEFILE", -1, file())}), present={A: 5}), 7, NOW)
        store.put_source(SOURCE)
    with database.open() as store:
        assert store.last_serial() == 1
        assert store.source() == SOURCE
        assert store.file_counts() == FileCounts(1, 0, 0)
        assert store.contact() == Contact(NOW, 7, None)
