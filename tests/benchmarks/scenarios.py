"""What is compared with what: each scenario returns its results, and a run may have any of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from replisync.devpi.keys import READ_KEYNAMES
from tests.benchmarks import databases, dataset, decoding, latency, proofs, static
from tests.benchmarks import seeding as seeds
from tests.benchmarks.copies import clone, devpi_replica, drain, metadata_seconds
from tests.benchmarks.machine import Finished, ForeignLoad, alternate, median
from tests.benchmarks.report import AT_LEAST, Figure, Ratio, Result
from tests.benchmarks.stage import Stage
from tests.support.postgres import Postgres

MIB = 1 << 20
DEVPI = "devpi's replica"
LONG = 10
"""How many times the serials and files of a run the long one has."""

LONG_FILE_BYTES = 64

BIG_FILE_BYTES = 300_000_000
_BIG_SERIALS = 12


@dataclass
class Run:
    """One run of the suite: the primary, how often everything is repeated, and the load by others."""

    stage: Stage
    cache: Path
    repeat: int
    changes: int
    load: ForeignLoad
    say: Callable[[str], None]

    def alternate(self, **competitors: Callable[[], float]) -> dict[str, list[float]]:
        """Measure the competitors in turn."""
        return alternate(competitors, self.repeat, self.load, self.say)


def decoder(run: Run) -> list[Result]:
    """Our decoder and devpi's over the same bytes, in entries a second of CPU."""
    stream = decoding.stream_of(run.stage.dataset)
    found = run.alternate(
        as_used=lambda: decoding.ours(stream, READ_KEYNAMES),
        devpi=lambda: decoding.devpis(stream),
        all_values=lambda: decoding.ours(stream, None),
    )
    devpis = found["devpi"]
    return [
        Ratio("wire decoder as used", "entry/s", found["as_used"], devpis, "fileutil.load", 2, AT_LEAST),
        Ratio("wire decoder, all values", "entry/s", found["all_values"], devpis, "fileutil.load"),
    ]


def metadata(run: Run) -> list[Result]:
    """All serials without files: ours, a bare drain of the stream, devpi's own replica."""
    stage = run.stage
    peaks: list[float] = []
    stages: list[float] = []

    def ours() -> float:
        finished = clone(stage, files=False)
        peaks.append(finished.peak_bytes / MIB)
        stages.append(metadata_seconds(finished.output))
        return finished.seconds

    found = run.alternate(
        drain=lambda: drain(stage), clone=ours, replica=lambda: devpi_replica(stage, files=False)
    )
    name = "clone of the metadata"
    return [
        Ratio(
            f"{name}, first request to last commit", "s", stages, found["drain"], "drain of the stream", 1.3
        ),
        Ratio(f"{name}, the whole process", "s", found["clone"], found["drain"], "drain of the stream"),
        Ratio(name, "s", found["clone"], found["replica"], DEVPI, 15, AT_LEAST, inverted=True),
        Figure(f"peak memory, {stage.dataset.serials} serials", "MiB", peaks, 160),
    ]


def files(run: Run) -> list[Result]:
    """Everything with the files: ours, devpi's own replica; and the file rate beside a load generator's."""
    stage = run.stage
    count = stage.dataset.files
    found = run.alternate(
        metadata=lambda: clone(stage, files=False).seconds,
        load_1=lambda: _load(stage, 1),
        load_2=lambda: _load(stage, 2),
        clone=lambda: clone(stage, files=True).seconds,
        load_4=lambda: _load(stage, 4),
        load_8=lambda: _load(stage, 8),
        replica=lambda: devpi_replica(stage, files=True),
    )
    before = median(found["metadata"])
    rates = [count / (seconds - before) for seconds in found["clone"]]
    best = max((name for name in found if name.startswith("load")), key=lambda name: median(found[name]))
    return [
        Ratio("clone with files", "s", found["clone"], found["replica"], DEVPI, 3.5, AT_LEAST, inverted=True),
        Ratio("files", "/s", rates, found[best], f"{best[5:]} bare connections", 0.9, AT_LEAST),
    ]


def nginx(run: Run) -> list[Result]:
    """Files by nginx's static path, over http and https, beside rsync and cp of the same tree."""
    stage = run.stage
    if missing := static.missing_programs():
        run.say(f"left out: not installed: {', '.join(missing)}")
        return []
    cpu: dict[str, list[float]] = {"http": [], "https": [], "metadata": []}

    def note(name: str, finished: Finished) -> float:
        cpu[name].append(finished.cpu_seconds)
        return finished.seconds

    with static.before(stage) as server:
        found = run.alternate(
            metadata=lambda: note("metadata", static.clone(stage, server, server.http, files=False)),
            http=lambda: note("http", static.clone(stage, server, server.http, files=True)),
            https=lambda: note("https", static.clone(stage, server, server.https, files=True)),
            rsync=lambda: static.copied(stage, "rsync", "-a"),
            cp=lambda: static.copied(stage, "cp", "-r"),
        )
    count, before = stage.dataset.files, median(found["metadata"])
    results: list[Result] = []
    for way in ("http", "https"):
        rates = [count / (seconds - before) for seconds in found[way]]
        for other in ("rsync", "cp"):
            baseline = [count / seconds for seconds in found[other]]
            results.append(Ratio(f"files by nginx, {way}", "/s", rates, baseline, other))
    costs = {
        way: [(seconds - median(cpu["metadata"])) / count * 1e6 for seconds in cpu[way]]
        for way in ("https", "http")
    }
    results.append(Ratio("CPU of a file by nginx, https", "us", costs["https"], costs["http"], "http"))
    return results


def _load(stage: Stage, connections: int) -> float:
    """Return the files a second that the load generator gets."""
    relpaths = stage.sample(stage.dataset.files // 3)
    command = [sys.executable, "-m", "tests.benchmarks.load", "127.0.0.1", str(stage.primary.port)]
    done = subprocess.run(
        [*command, str(connections)], input="\n".join(relpaths), capture_output=True, text=True, check=True
    )
    return len(relpaths) / float(done.stdout)


def follow(run: Run) -> list[Result]:
    """How long after the primary a change is committed in the target, ours and devpi's own replica's."""
    stage = run.stage
    clone(stage, files=False)
    devpi_replica(stage, files=False)
    per_block = -(-run.changes // run.repeat)
    found: dict[str, list[float]] = {"ours": [], "replica": []}

    def block(name: str, measure: Callable[[Stage, Path, int], list[float]], target: Path) -> float:
        latencies = [seconds * 1000 for seconds in measure(stage, target, per_block)]
        found[name] += latencies
        return median(latencies)

    run.alternate(
        follow=lambda: block("ours", latency.follow_latencies, stage.standby),
        replica=lambda: block("replica", latency.replica_latencies, stage.replica),
    )
    return [
        Figure("commit to commit, follow", "ms", found["ours"], 50),
        Ratio("commit to commit", "ms", found["ours"], found["replica"], DEVPI, 1),
    ]


def postgres(run: Run) -> list[Result]:
    """Clones into PostgreSQL, beside the raw stream, SQLite, and devpi's replica on the same server."""
    stage = run.stage
    count = stage.dataset.files
    stages: list[float] = []
    with Postgres(durable=True) as server:

        def metadata() -> float:
            finished = databases.clone(stage, server.database(), files=False)
            stages.append(metadata_seconds(finished.output))
            return finished.seconds

        found = run.alternate(
            drain=lambda: drain(stage),
            postgres=metadata,
            sqlite=lambda: clone(stage, files=False).seconds,
            postgres_files=lambda: databases.clone(stage, server.database(), files=True).seconds,
            sqlite_files=lambda: clone(stage, files=True).seconds,
            replica=lambda: databases.devpi_replica(stage, server.database()),
        )
    rates = {
        name: [count / (seconds - median(found[name])) for seconds in found[f"{name}_files"]]
        for name in ("postgres", "sqlite")
    }
    name = "metadata into PostgreSQL"
    return [
        Ratio(f"{name}, first request to last commit", "s", stages, found["drain"], "drain of the stream", 2),
        Ratio(f"{name}, the whole process", "s", found["postgres"], found["drain"], "drain of the stream"),
        Ratio(name, "s", found["postgres"], found["replica"], DEVPI, 10, AT_LEAST, inverted=True),
        Ratio("files into PostgreSQL", "/s", rates["postgres"], rates["sqlite"], "+files", 0.8, AT_LEAST),
    ]


def seeding(run: Run) -> list[Result]:
    """Base copies, seeds by way of an export, and files that are here: beside devpi's export and import."""
    stage = run.stage
    cpu: dict[str, list[float]] = {}
    tools: dict[float, float] = {}  # by the seconds of the whole

    def note(name: str, finished: list[Finished]) -> float:
        cpu.setdefault(name, []).append(seeds.cpu_seconds(finished))
        return seeds.seconds(finished)

    def export_seed() -> float:
        done = seeds.export_seed(stage)
        tools[done.whole.seconds] = done.tools_seconds
        return note("export", [done.whole])

    found = run.alternate(
        metadata=lambda: note("metadata", [clone(stage, files=False)]),
        local=lambda: note("local", [seeds.from_local_files(stage)]),
        copy=lambda: note("copy", [seeds.base_copy(stage)]),
        links=lambda: note("links", [seeds.base_copy(stage, "--hard-links")]),
        export=export_seed,
        devpi=lambda: note("devpi", seeds.devpis_own(stage)),
    )
    alone = [tools[seconds] for seconds in found["export"]]
    devpi, name = "devpi-export and -import", "clone with all files here"
    return [
        Ratio("base copy", "s", found["copy"], found["devpi"], devpi, 5, AT_LEAST, inverted=True),
        Ratio("base copy, CPU", "s", cpu["copy"], cpu["devpi"], devpi, inverted=True),
        Ratio("base copy, links", "s", found["links"], found["devpi"], devpi, inverted=True),
        Ratio("seed by an export", "s", found["export"], alone, "devpi's tools in it", 1.25),
        Ratio("seed by an export, CPU", "s", cpu["export"], cpu["devpi"], devpi),
        Ratio(name, "s", found["local"], found["metadata"], "metadata alone", 2),
        Ratio(f"{name}, CPU", "s", cpu["local"], cpu["metadata"], "metadata alone"),
    ]


def long(run: Run) -> list[Result]:
    """Peak memory of clones with files, for the run's history and for one of ten times its length."""
    here = run.stage.dataset
    larger = dataset.build(run.cache, here.serials * LONG, here.files * LONG, LONG_FILE_BYTES)
    small = run.alternate(peak=lambda: clone(run.stage, files=True).peak_bytes / MIB)["peak"]
    with Stage(larger, run.stage.root / "long") as stage:
        long_run = replace(run, stage=stage, repeat=1, load=ForeignLoad([stage.primary.pid], run.load.cores))
        large = long_run.alternate(peak=lambda: clone(stage, files=True).peak_bytes / MIB)["peak"]
    return [
        Figure(f"peak memory, {larger.serials} serials", "MiB", large, 160),
        Ratio("peak memory, ten times the history", "MiB", large, small, f"{here.serials} serials", 1.1),
    ]


def big(run: Run) -> list[Result]:
    """What a file of 300 MB adds to the peak memory of a clone, into both storages."""

    def peaks(name: str, file_bytes: int) -> dict[str, list[float]]:
        data = dataset.build(run.cache, _BIG_SERIALS, 1, file_bytes)
        with Stage(data, run.stage.root / name) as stage, Postgres(durable=True) as server:
            local = replace(run, stage=stage, load=ForeignLoad([stage.primary.pid], run.load.cores))
            return local.alternate(
                sqlite=lambda: clone(stage, files=True).peak_bytes / MIB,
                postgres=lambda: databases.clone(stage, server.database(), files=True).peak_bytes / MIB,
            )

    with_big, without = peaks("big", BIG_FILE_BYTES), peaks("small", run.stage.dataset.file_size)
    return [
        Figure(f"extra memory of a 300 MB file, {storage}", "MiB", [peak - median(without[key])], 64)
        for key, storage in (("sqlite", "SQLite"), ("postgres", "PostgreSQL"))
        for peak in (median(with_big[key]),)
    ]


def verify(run: Run) -> list[Result]:
    """A standby with ten times the files: beside `find` with the sizes, and `sha256sum` on all cores."""
    here = run.stage.dataset
    larger = dataset.build(run.cache, here.files * LONG + 2, here.files * LONG, here.file_size)
    with Stage(larger, run.stage.root / "verify") as stage:
        proofs.copy(stage)
        full: list[proofs.Full] = []

        def whole() -> float:
            full.append(proofs.full(stage))
            return full[-1].seconds

        local = replace(run, stage=stage, load=ForeignLoad([stage.primary.pid], run.load.cores))
        found = local.alternate(
            find=lambda: proofs.find(stage),
            files=lambda: proofs.files(stage),
            sha256sum=lambda: proofs.sha256sum(stage),
            full=whole,
        )
    name = f"{larger.files} files"
    stages = [one.files_seconds for one in full]
    return [
        Ratio(f"verify --level files, {name}", "s", found["files"], found["find"], "find -printf %s", 3),
        Ratio(f"verify --level full, {name}", "s", stages, found["sha256sum"], "sha256sum, all cores", 1),
        Figure(f"verify --level full, with {larger.serials} entries", "s", found["full"]),
        Figure("peak memory of verify --level full", "MiB", [one.peak_bytes / MIB for one in full], 200),
    ]


SCENARIOS: dict[str, Callable[[Run], list[Result]]] = {
    "decoder": decoder,
    "metadata": metadata,
    "files": files,
    "nginx": nginx,
    "postgres": postgres,
    "seeding": seeding,
    "verify": verify,
    "big": big,
    "long": long,
    "follow": follow,
}
"""In the order in which they run: the last one writes to the primary, whose end the others know."""
