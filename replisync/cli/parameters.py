"""Types of option values: paths, lengths of time, sizes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Numbers = click.ParamType[float]
    _Bytes = click.ParamType[int]
else:
    # Generic since click 8.4 only.
    _Numbers = _Bytes = click.ParamType

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MOST_SECONDS = 10 * 366 * 86_400
_BYTES = {"K": 1024, "M": 1024**2, "G": 1024**3}


class _Path(click.Path):
    """A path, which must not be empty: an empty one would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


# We check ourselves whether a path is readable: click would report it as a usage error.
PATH = _Path(path_type=Path, readable=False)


class Duration(_Numbers):
    """A length of time, as a number of `unit`: "90", "90s", "5m", "1h", "30d".

    unit: of a bare number, and of the value.
    positive: whether it must be more than 0.
    """

    name = "duration"

    def __init__(self, unit: str = "s", *, positive: bool = False) -> None:
        self.unit = unit
        self._positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([smhdw]?)\s*", str(value))
        if found is None:
            self.fail(f"{value!r} is not a length of time, such as 90s, 5m, 1h or 30d", param, ctx)
        number = float(found[1])
        if found[2]:
            number *= _SECONDS[found[2]] / _SECONDS[self.unit]
        if number * _SECONDS[self.unit] > _MOST_SECONDS:
            self.fail(f"{value!r} is more than ten years", param, ctx)
        if self._positive and not number:
            self.fail(f"{value!r} is not more than 0", param, ctx)
        return number


class Size(_Bytes):
    """A size in bytes: "64", "64M", "2G"; a bare number is in MiB.

    least, most: in bytes.
    """

    name = "size"

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        found = re.fullmatch(r"\s*(\d{1,12})\s*([KMG]?)(?:i?B)?\s*", str(value), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is not a size, such as 64M or 2G", param, ctx)
        number = int(found[1]) * _BYTES[found[2].upper() or "M"]
        if not self._least <= number <= self._most:
            least, most = self._least // _BYTES["M"], self._most // _BYTES["M"]
            self.fail(f"{value!r} is not between {least}M and {most}M", param, ctx)
        return number
