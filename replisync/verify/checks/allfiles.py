"""Survey of all files in the ledger, in batches, with as many threads as there are cores."""

from collections.abc import Iterable, Iterator

from replisync.changelog import PRESENT
from replisync.devpi import Digest
from replisync.standby import LedgerFile, Looked, audit
from replisync.verify.checks.parallel import ahead
from replisync.verify.subject import Subject

# The number of rows of the ledger to read at a time.
_PAGE = 5000

# The size of a thread's batch: in files, and for digests also in bytes.
_SIZES = 1000
_DIGESTS = 64
_DIGEST_BYTES = 16 * 1024 * 1024


def looked_at(subject: Subject, *, digests: bool) -> Iterator[tuple[list[LedgerFile], Looked]]:
    """Yield every file that is recorded as present, in batches, with its state.

    With digests also those recorded as missing: no other content may be in their places.
    """
    subject.context.progress.stage("files", audit.count_of_present(subject.store), "files")
    chunks = _cut(known_files(subject, absent_too=digests), digests=digests)

    def look(chunk: list[LedgerFile]) -> Looked:
        return look_at(subject, chunk, digests=digests)

    for chunk, looked in ahead(chunks, look, subject.cores):
        subject.context.stop.check()
        yield chunk, looked
        size = sum(seen.size or 0 for seen in looked.files) if digests else 0
        subject.context.progress.advance(sum(file.state == PRESENT for file in chunk), size)


def known_files(subject: Subject, *, absent_too: bool) -> Iterator[LedgerFile]:
    """Yield the files of the ledger, in the order of their paths' bytes.

    absent_too: whether to include those recorded as missing.
    """
    after = ""
    while page := audit.ledger(subject.store, after, _PAGE):
        after = page[-1].relpath
        yield from (file for file in page if absent_too or file.state == PRESENT)


def _cut(files: Iterable[LedgerFile], *, digests: bool) -> Iterator[list[LedgerFile]]:
    chunk: list[LedgerFile] = []
    size = 0
    for file in files:
        chunk.append(file)
        size += file.size or 0
        if len(chunk) >= (_DIGESTS if digests else _SIZES) or (digests and size >= _DIGEST_BYTES):
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def look_at(subject: Subject, files: list[LedgerFile], *, digests: bool) -> Looked:
    """Return the states of some files."""
    return subject.survey.look_at([(_algorithm(file) if digests else "", file.relpath) for file in files])


def _algorithm(file: LedgerFile) -> str:
    digest = Digest.parse(file.digest)
    return digest.algorithm if digest is not None else "sha256"
