"""The benchmark: `python -m tests.benchmarks` prints ratios that were measured side by side in this run."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from tests.benchmarks.dataset import build
from tests.benchmarks.machine import ForeignLoad
from tests.benchmarks.report import Result, as_json, as_markdown, as_table, put_into
from tests.benchmarks.scenarios import SCENARIOS, Run
from tests.benchmarks.stage import Stage

DEFAULT_CACHE = Path(__file__).parents[2] / ".cache" / "bench"
QUICK = {"serials": 2_002, "files": 1_000, "repeat": 1, "changes": 30}
FULL = {"serials": 20_002, "files": 10_000, "repeat": 3, "changes": 102}


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the settings of a run."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--serials", type=int, help="of the primary (default: 20002)")
    parser.add_argument("--files", type=int, help="of the primary (default: 10000)")
    parser.add_argument("--file-size", type=int, default=8192, help="in bytes (default: %(default)s)")
    parser.add_argument("--repeat", type=int, help="measurements of each competitor (default: 3)")
    parser.add_argument("--changes", type=int, help="for the latency of follow (default: 102)")
    parser.add_argument("--only", default="", metavar="NAMES", help=f"some of {', '.join(SCENARIOS)}")
    parser.add_argument("--long", action="store_true", help="also a history of ten times the length")
    parser.add_argument("--quick", action="store_true", help="small and once: to try the suite out")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="put the table between the markers of a page, too"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all samples")
    settings = parser.parse_args(argv)
    for name, value in (QUICK if settings.quick else FULL).items():
        if getattr(settings, name) is None:
            setattr(settings, name, value)
    if settings.page is not None:
        try:
            put_into(settings.page.read_text(), "")
        except (OSError, ValueError) as err:
            parser.error(f"--page: {err}")
    settings.only = [name for name in settings.only.split(",") if name]
    if unknown := set(settings.only) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return settings


def main(argv: list[str]) -> int:
    """Run the suite; return 1 if a goal was missed."""
    settings = parse(argv)
    cache = Path(os.environ.get("REPLISYNC_BENCH_CACHE") or DEFAULT_CACHE)
    say(f"data set: {settings.serials} serials, {settings.files} files of {settings.file_size} bytes")
    dataset = build(cache, settings.serials, settings.files, settings.file_size)
    root = cache / f"run-{os.getpid()}"
    results: list[Result] = []
    try:
        with Stage(dataset, root) as stage:
            load = ForeignLoad([stage.primary.pid])
            run = Run(stage, cache, settings.repeat, settings.changes, load, say)
            chosen = settings.only or [name for name in SCENARIOS if name != "long" or settings.long]
            for name in filter(chosen.__contains__, SCENARIOS):
                say(f"-- {name}: {(SCENARIOS[name].__doc__ or '').strip()}")
                results += SCENARIOS[name](run)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    about = {name: getattr(settings, name) for name in ("serials", "files", "file_size", "repeat", "changes")}
    print((as_json if settings.json else as_table)(results, load, about))
    if settings.page is not None:
        table = as_markdown(results, load, about)
        settings.page.write_text(put_into(settings.page.read_text(), table))
    return int(any(result.met is False for result in results))


def say(line: str) -> None:
    """Tell how far the run is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
