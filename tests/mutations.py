"""`make mutations`: break the code in places that matter, one at a time; each must fail a test.

ARGS: words; only mutations whose name has one of them are tried.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
COPIED = (
    "replisync",
    "migrations",
    "tests",
    "docs",
    "examples",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
)
_DEADLINE_SECONDS = 900


@dataclass(frozen=True)
class Mutation:
    """One change of the code, and the tests that must notice it.

    path: below the package.
    old, new: what is replaced; it must be there exactly once.
    tests: below tests/, with or without the options of pytest.
    """

    name: str
    path: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "a retried file counts before it has its place",
        "replication/retries.py",
        "        self._round = None\n",
        "        self._round = None\n        self._wanted.record_again(done.outcomes, done.faults)\n",
        "crashes/test_retries.py",
    ),
    Mutation(
        "a file has its place before its content is durable",
        "standby/files/disk.py",
        'self._syncer.contents([f"{self._staging}/{name}" for _, name in moves])',
        "pass",
        "edges/test_sync.py edges/test_disk_files.py",
    ),
    Mutation(
        "the folder of a new file is not synced",
        "standby/files/disk.py",
        "        self._syncer.names(names)\n",
        "",
        "edges/test_sync.py edges/test_disk_files.py",
    ),
    Mutation(
        "a small file is renamed before it is synced",
        "system/durable.py",
        "            os.fsync(file.fileno())\n",
        "",
        "edges/test_serverdir.py edges/test_sync.py edges/test_disk_files.py edges/test_bad_disks.py",
    ),
    Mutation(
        "a digest is not compared",
        "standby/files/disk.py",
        "if digest is not None and found != digest.hexdigest:",
        "if digest is not None and not found:",
        "edges/test_disk_files.py",
    ),
    Mutation(
        "a length is not compared",
        "standby/files/disk.py",
        "if length is not None and size != length:",
        "if length is not None and size > length:",
        "edges/test_disk_files.py",
    ),
    Mutation(
        "another server is taken for the primary",
        "primary/connection.py",
        "if self.expected and uuid != self.expected:",
        "if False:",
        "edges/test_primary_answers.py",
    ),
    Mutation(
        "a replica is taken for the primary",
        "primary/connection.py",
        "if uuid != own and (not uuid or not self.expected or uuid == self.expected):",
        "if False:",
        "edges/test_primary_answers.py",
    ),
    Mutation(
        "a rewritten history is not noticed",
        "changelog/divergence.py",
        "        if not same:\n",
        "        if same is None:\n",
        "edges/test_divergence.py",
    ),
    Mutation(
        "entries before the last are not compared",
        "changelog/divergence.py",
        "if self._same(witness) is False:",
        "if False:",
        "edges/test_divergence.py",
    ),
    Mutation(
        "a batch is committed behind somebody else's",
        "standby/database/store.py",
        "if last != batch.first - 1:",
        "if last < batch.first - 1:",
        "edges/test_store.py",
    ),
    Mutation(
        "entries of another writer are taken for ours",
        "standby/database/history.py",
        "if last != (-1 if own is None else own):",
        "if last < (-1 if own is None else own):",
        "edges/test_store.py edges/test_pipeline.py",
    ),
    Mutation(
        "a second replisync is not noticed",
        "replication/pipeline.py",
        "if self._left_at not in (None, position):",
        "if False:",
        "edges/test_pipeline.py",
    ),
    Mutation(
        "another writer is not noticed before a step",
        "replication/pipeline.py",
        "position = self._store.own_serial()",
        "position = self._store.last_serial()",
        "edges/test_pipeline.py",
    ),
    Mutation(
        "what a commit demands on disk is forgotten",
        "standby/database/store.py",
        "            return moves\n",
        "            return False\n",
        "edges/test_pipeline.py edges/test_store.py",
    ),
    Mutation(
        "a serial goes on without a private file",
        "replication/refusals.py",
        "        verdict.held.append(fault_of(refusal, HELD, ",
        "        verdict.faults.append(fault_of(refusal, HELD, ",
        "edges/test_pipeline.py",
    ),
    Mutation(
        "a skipped file holds its serial all the same",
        "replication/refusals.py",
        "elif known is not None and known.kind == SKIPPED:",
        "elif False:",
        "edges/test_pipeline.py crashes/test_replication.py",
    ),
    Mutation(
        "a token is used for longer than the primary takes it",
        "devpi/tokens.py",
        "not 0 <= now - made < _REUSE_SECONDS",
        "not 0 <= now - made < 60",
        "unit/test_secrets.py edges/test_primary_clock.py edges/test_primary_answers.py",
    ),
    Mutation(
        "a primary that calls a token expired is believed at once",
        "primary/connection.py",
        "return response.status_code == 403 and _EXPIRED in self._text(response, attempted)",
        "return False",
        "edges/test_primary_clock.py",
    ),
    Mutation(
        "a path may lead out of its folder",
        "devpi/keys.py",
        'if any(part in ("", ".", "..") for part in relpath.split("/")):',
        'if any(part in ("", ".") for part in relpath.split("/")):',
        "unit/test_keys.py unit/test_hostile_input.py",
    ),
    Mutation(
        "an entry may be of any length",
        "devpi/wire.py",
        "self._limit = (limits or Limits()).entry_bytes",
        "self._limit = 1 << 40",
        "unit/test_wire_limits.py",
    ),
    Mutation(
        "a secret that others can read is taken",
        "primary/secretfiles.py",
        "if mode & (_OTHERS_OF_MOUNTED if mounted else stat.S_IRWXG | stat.S_IRWXO):",
        "if False:",
        "unit/test_secrets.py",
    ),
    Mutation(
        "a secret in a folder of all is taken",
        "primary/secretfiles.py",
        "    if shared:\n        raise UsageError(attempted, "
        '"others may write to its folder", hint=_private_folder(shared[0]))',
        "    if False:\n        pass",
        "unit/test_secrets.py",
    ),
    Mutation(
        "two writers hold the lock",
        "standby/serverdir.py",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "edges/test_serverdir.py",
    ),
    Mutation(
        "a promoted server is written to",
        "standby/opening.py",
        '    if role != "replica":',
        '    if role == "nothing":',
        "unit/test_configuration.py e2e/test_promote.py",
    ),
    Mutation(
        "retained files are removed too early",
        "standby/database/moves.py",
        "select(t.retained.c.stored_as).where(noted <= moment)",
        "select(t.retained.c.stored_as).where(noted <= now)",
        "edges/test_retention.py",
    ),
    Mutation(
        "an altered entry is not noticed",
        "changelog/witness.py",
        "    return blake2b(data, digest_size=SIZE).digest()",
        '    return b"constant"',
        "unit/test_witness.py edges/verify/test_history.py",
    ),
    Mutation(
        "a head that drips is waited for",
        "primary/transport.py",
        "            if left <= 0:\n"
        '                raise TimeoutError("the head of the answer is not complete")\n'
        "            self._own.settimeout(left)\n",
        "            pass\n",
        "edges/test_heads.py",
    ),
    Mutation(
        "an answer that is cut off counts as whole",
        "primary/transport.py",
        "        if self._answer.length:\n",
        "        if False:\n",
        "edges/test_transport.py",
    ),
    Mutation(
        "answers that are compressed are taken",
        "primary/connection.py",
        'if response.headers.get("content-encoding", "identity") != "identity":',
        "if False:",
        "edges/test_primary_answers.py edges/test_primary_files.py edges/test_primary_changelog.py",
    ),
    Mutation(
        "the secret goes along with a redirect",
        "primary/connection.py",
        "follow_redirects=False",
        "follow_redirects=True",
        "edges/test_primary_answers.py",
    ),
]


def outcome(mutation: Mutation) -> str:
    """Return the first test that fails on the changed code, or why there is none."""
    with TemporaryDirectory(prefix="replisync-mutation-") as folder:
        root = Path(folder)
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, root / name)
        path = root / "replisync" / mutation.path
        text = path.read_text()
        if text.count(mutation.old) != 1:
            return f"ERROR: {mutation.path} has its text {text.count(mutation.old)} times"
        path.write_text(text.replace(mutation.old, mutation.new))
        tests = [word if word.startswith("-") else f"tests/{word}" for word in mutation.tests.split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "2", *tests]
        done = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_DEADLINE_SECONDS,
        )
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        if done.returncode == 0 or not failed:
            return "NOT CAUGHT" if done.returncode == 0 else f"ERROR: pytest ended with {done.returncode}"
        return failed[0].split(" - ")[0]


def main(words: list[str]) -> int:
    """Try the mutations; return 1 if one is not caught."""
    bad = 0
    for mutation in MUTATIONS:
        if words and not any(word in mutation.name for word in words):
            continue
        found = outcome(mutation)
        bad += not found.startswith("FAILED")
        print(f"{mutation.name:58} {found}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
