"""Ratios, side by side with the figures that they come from, as a table or as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any

from tests.benchmarks.machine import ForeignLoad, median

AT_MOST, AT_LEAST = "<=", ">="
_WORDS = {AT_MOST: "at most", AT_LEAST: "at least"}

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
"""Around the table in a page of the documentation."""

_PAGE_WIDTH = 120


@dataclass(frozen=True)
class Ratio:
    """One comparison.

    ours, baseline: the measured samples of each, in `unit`.
    inverted: the ratio is baseline to ours (how many times quicker we are), not ours to baseline.
    goal: the bound of the ratio; None where it is only told.
    """

    name: str
    unit: str
    ours: Sequence[float]
    baseline: Sequence[float]
    baseline_name: str
    goal: float | None = None
    sense: str = AT_MOST
    inverted: bool = False

    @property
    def value(self) -> float:
        """The ratio of the medians."""
        ratio = median(self.ours) / median(self.baseline)
        return 1 / ratio if self.inverted else ratio

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.sense == AT_MOST else self.value >= self.goal


@dataclass(frozen=True)
class Figure:
    """One measured figure with a goal of its own."""

    name: str
    unit: str
    samples: Sequence[float]
    goal: float | None = None

    @property
    def value(self) -> float:
        """The median."""
        return median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        return None if self.goal is None else self.value <= self.goal


Result = Ratio | Figure


def as_json(results: Sequence[Result], load: ForeignLoad, settings: dict[str, Any]) -> str:
    """Return everything that was measured."""
    rows = [{**asdict(result), "value": result.value, "met": result.met} for result in results]
    return json.dumps({"machine": _machine(load), "settings": settings, "results": rows}, indent=2)


def as_table(results: Sequence[Result], load: ForeignLoad, settings: dict[str, Any]) -> str:
    """Return one line per result, and what has to be known to judge them."""
    machine = _machine(load)
    lines = [
        f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}; others used "
        f"{machine['foreign_cores_median']:.2f} cores in the median measurement, "
        f"{machine['foreign_cores_max']:.2f} in the worst",
        ", ".join(f"{name} {value}" for name, value in settings.items()),
        "",
        f"{'':44} {'ours':>12} {'baseline':>12}  {'of':22} {'ratio':>8}  goal",
    ]
    return "\n".join([*lines, *map(_line, results)])


def as_markdown(results: Sequence[Result], load: ForeignLoad, settings: dict[str, Any]) -> str:
    """Return a table for the documentation, and under it what has to be known to judge it."""
    machine = _machine(load)
    rows = ["| | replisync | compared with | ratio | goal | |", "|---|---|---|---|---|---|"]
    rows += [f"| {' | '.join(cells)} |" for cells in map(_cells, results)]
    missed = sum(result.met is False for result in results)
    about = (
        f"{machine['cores']} cores shared with the primary, {machine['system']}, Python {machine['python']}; "
        f"{settings['serials']} serials, {settings['files']} files of {settings['file_size']} bytes; "
        f"median of {settings['repeat']} runs. Others used "
        f"{machine['foreign_cores_median']:.2f} cores in the median measurement, "
        f"{machine['foreign_cores_max']:.2f} in the worst. Goals missed: {missed}."
    )
    return "\n".join([*rows, "", *wrap(about, _PAGE_WIDTH)])


def put_into(page: str, table: str) -> str:
    """Return a page with a table between its markers in the place of the one that is there.

    Raises ValueError where there are no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def _cells(result: Result) -> list[str]:
    met = {True: "met", False: "**missed**", None: ""}[result.met]
    if isinstance(result, Figure):
        goal = "" if result.goal is None else f"at most {result.goal:g} {result.unit}"
        return [result.name, _number(result.value, result.unit), "", "", goal, met]
    ours, baseline = (_number(median(samples), result.unit) for samples in (result.ours, result.baseline))
    ratio = f"{result.value:.2f}" + (" times faster" if result.inverted else "")
    bound = "" if result.goal is None else f"{_WORDS[result.sense]} {result.goal:g}"
    return [result.name, ours, f"{baseline}, {result.baseline_name}", ratio, bound, met]


def _line(result: Result) -> str:
    met = {True: "met", False: "MISSED", None: ""}[result.met]
    if isinstance(result, Figure):
        goal = "" if result.goal is None else f"<= {result.goal:g} {result.unit}"
        value = _number(result.value, result.unit)
        return f"{result.name:44} {value:>12} {'':12}  {'':22} {'':8}  {goal} {met}".rstrip()
    goal = "" if result.goal is None else f"{result.sense} {result.goal:g}"
    ours = _number(median(result.ours), result.unit)
    baseline = _number(median(result.baseline), result.unit)
    name, other = result.name, result.baseline_name
    return f"{name:44} {ours:>12} {baseline:>12}  {other:22} {result.value:>8.2f}  {goal} {met}".rstrip()


def _number(value: float, unit: str) -> str:
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def _machine(load: ForeignLoad) -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "foreign_cores_median": median(load.cores or [0.0]),
        "foreign_cores_max": max(load.cores, default=0.0),
    }
