"""Findings of verifications that no later one cleared.

A verification clears earlier findings of its own level or a lower one: it has checked the same and more. A
finding of a higher level remains until a verification of that level, or a repair of this finding.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from replisync.changelog import Verification
from replisync.standby import Store
from replisync.verify.findings import EVENT_SERIAL, PERMISSIONS, SUPERFLUOUS_FILE, TEMPORARY, Finding, Report

# Kinds that are harmless for a promoted server; all others are about entries, rows, files, or its start.
HARMLESS = frozenset({PERMISSIONS, SUPERFLUOUS_FILE, TEMPORARY, EVENT_SERIAL})

# The number of findings that are recorded by name, and the length of a name.
_NAMED = 20
_NAME_LENGTH = 200

# The number of findings of a kind that a message names.
_SHOWN = 3

# From before kinds were recorded: it may be anything.
_UNKNOWN = "finding"

_Identity = tuple[str, str, int | None]


@dataclass(frozen=True, slots=True)
class Standing:
    """The remaining findings of one verification.

    kinds: the number of each kind.
    named: kind, subject and serial of the first ones.
    """

    level: str
    finished: str
    kinds: dict[str, int]
    named: tuple[_Identity, ...]

    def only(self, *, harmless: bool) -> "Standing":
        """Return those that are harmless for a promoted server, or the others."""
        return self._of({kind: n for kind, n in self.kinds.items() if (kind in HARMLESS) == harmless})

    def beyond(self, known: Mapping[str, int]) -> "Standing":
        """Return those of kinds with more findings than known already."""
        return self._of({kind: n for kind, n in self.kinds.items() if n > known.get(kind, 0)})

    def _of(self, kinds: dict[str, int]) -> "Standing":
        return replace(self, kinds=kinds, named=tuple(one for one in self.named if one[0] in kinds))

    def __str__(self) -> str:
        """Return the findings in words, as in "2 missing-file (a, b), 1 missing-entry (serial 60)"."""
        return ", ".join(f"{number} {kind}{self._names(kind)}" for kind, number in self.kinds.items())

    def _names(self, kind: str) -> str:
        names = [subject for one, subject, _ in self.named if one == kind][:_SHOWN]
        more = ", .." if names and self.kinds[kind] > len(names) else ""
        return f" ({', '.join(names)}{more})" if names else ""


def standing(store: Store) -> list[Standing]:
    """Return the remaining findings of each verification that has any; the highest level first."""
    return [found for one in reversed(store.verifications()) if (found := _read(one)).kinds]


def distinct(found: Iterable[Standing]) -> list[Standing]:
    """Return the findings of several verifications, each kind once."""
    known: dict[str, int] = {}
    result: list[Standing] = []
    for one in found:
        new = one.beyond(known)
        known |= new.kinds
        result += [new] if new.kinds else []
    return result


def found_now(report: Report) -> Standing:
    """Return the findings of a verification just now."""
    return Standing(report.level, report.finished, dict(report.counts), _names_of(report.findings))


def record(store: Store, report: Report) -> None:
    """Record a verification, and the remaining findings of earlier ones."""
    repairs = frozenset((one.kind, one.subject, one.serial) for one in report.repairs)
    found = found_now(report)
    done = Verification(
        level=report.level,
        outcome=report.outcome,
        serial=report.serial,
        started=report.started,
        finished=report.finished,
        findings=report.total,
        repaired=report.repaired,
        found=_written(found),
    )
    store.put_verification(done, partial(_left, repairs=repairs))


def _left(earlier: Verification, repairs: frozenset[_Identity]) -> Verification | None:
    """Return a verification of a higher level with its remaining findings, after a repair."""
    found = _read(earlier)
    gone = [one for one in found.named if one in repairs]
    kinds = dict(found.kinds)
    for kind, _, _ in gone:
        kinds[kind] -= 1
    kinds = {kind: number for kind, number in kinds.items() if number > 0}
    if not kinds:
        return None
    left = replace(found, kinds=kinds, named=tuple(one for one in found.named if one not in gone))
    return replace(earlier, findings=sum(kinds.values()), found=_written(left))


def _names_of(findings: Sequence[Finding]) -> tuple[_Identity, ...]:
    return tuple((one.kind, _cut(one.subject), one.serial) for one in findings[:_NAMED])


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}.."


def _written(found: Standing) -> str:
    return json.dumps({"kinds": found.kinds, "named": found.named})


def _read(done: Verification) -> Standing:
    kinds: dict[str, int] = {_UNKNOWN: done.findings} if done.findings else {}
    named: tuple[_Identity, ...] = ()
    try:
        known: Any = json.loads(done.found or "")
        kinds = {str(kind): int(number) for kind, number in known["kinds"].items()}
        named = tuple((str(kind), str(subject), serial) for kind, subject, serial in known["named"])
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # old, or damaged: the number counts
    return Standing(done.level, done.finished, kinds, named)
