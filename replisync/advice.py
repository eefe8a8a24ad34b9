"""Commands that a message tells to run: safe as they stand, also where root runs them."""

import os
import shlex
from pathlib import Path


def quoted(path: str | Path) -> str:
    """Return a path as a shell takes it: whole, whatever is in it, and never as an option."""
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    # What a terminal would obey is written out, in the form that bash, ksh and zsh read.
    return f"$'{''.join(_written(letter) for letter in text)}'"


def _written(letter: str) -> str:
    if letter.isprintable() and letter not in "'\\":
        return letter
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))
