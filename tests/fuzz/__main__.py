"""Look for bytes that break what reads a changelog, for so many minutes: `make fuzz MINUTES=n`.

A folder as second argument keeps what was found on the way, and the next run goes on from there. Bytes that
break something are printed in the form of `corpus.txt`, in which they belong when the cause is mended.
"""

import base64
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        "replisync.devpi.wire",
        "replisync.devpi.entries",
        "replisync.changelog.plan",
        "replisync.devpi.keys",
    ]
):
    from tests.fuzz import target

from tests.unit.samples import dump, entries, load


def seeds() -> list[bytes]:
    """Return what to begin with: what is kept, and each kind of entry in each framing."""
    found = target.corpus()
    for raw in entries().values():
        changes, _ = load(raw)
        found += [b"\0" + raw, b"\1" + raw, b"\2" + dump(3) + raw + dump(4) + raw]
        found.append(b"\3" + dump([(3, changes), (4, changes)]))
    return found


def check(data: bytes) -> None:
    """Check some bytes, and print them where they break something."""
    try:
        target.check(data)
    except BaseException:
        print(f"broken by {base64.b64encode(data).decode()}", file=sys.stderr, flush=True)
        raise


def main() -> None:
    """Run until the time is over or something is broken."""
    minutes = float(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        found = Path(sys.argv[2] if len(sys.argv) > 2 else folder, "corpus")
        found.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (found / f"seed-{number}").write_bytes(seed)
        bounds = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/"]
        options = [f"-max_total_time={minutes * 60:.0f}", "-print_final_stats=1", *bounds]
        atheris.Setup([sys.argv[0], *options, str(found)], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
