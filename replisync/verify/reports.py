"""Reports of several verifications, combined."""

from dataclasses import replace

from replisync.errors import Hint
from replisync.system import clock
from replisync.verify.findings import Finding, Report


def joined(first: Report, second: Report) -> Report:
    """Return the findings of two verifications."""
    known = {one.identity for one in first.findings}
    new = [one for one in second.findings if one.identity not in known]
    counts = first.counts | {
        kind: max(first.counts.get(kind, 0), number) for kind, number in second.counts.items()
    }
    return replace(first, findings=[*first.findings, *new], counts=counts, total=sum(counts.values()))


def both(before: Report, after: Report, reasons: dict[object, str | Hint]) -> Report:
    """Return the report of a repair, from the verifications before and after it."""
    left = {one.identity for one in after.findings}
    repairs = [one for one in before.findings if one.identity not in left and one.subject not in reasons]
    # A file that could not be fetched is a fault from now on, and not a finding of the next verification.
    lost = [one for one in before.findings if one.identity not in left and one.subject in reasons]
    remaining = [_with_reason(one, reasons) for one in (*after.findings, *lost)]
    total = after.total + len(lost)
    return replace(
        after,
        started=before.started,
        seconds=round(before.seconds + after.seconds, 3),
        outcome="failed" if total else "repaired",
        findings=remaining,
        repairs=repairs,
        total=total,
        repaired=max(0, before.total - total),
        finished=clock.now(),
    )


def _with_reason(one: Finding, reasons: dict[object, str | Hint]) -> Finding:
    reason = reasons.get(one.subject) or reasons.get(one.serial)
    return one if reason is None else replace(one, remedy=reason)
