"""The list of banned phrases finds them in texts, and leaves innocent words and names of code alone."""

import pytest

from tests.support.idioms import find


@pytest.mark.parametrize(
    "text",
    [
        "verify mends it",
        "it is made anew",
        "the database beside it",
        "failures that may pass",
        "it is put\n    aside",
        "# it is put\n# aside",
        "when the histories part",
        "after so many seconds",
        "files that cannot be had",
        "nobody has it",
        "bytes that are none",
        "it is no standby",
        "None where it is missing",
        "What is wrong is repaired.",
        "It stops. Where the disk is full, it waits.",
    ],
)
def test_a_banned_phrase_is_found(text: str) -> None:
    assert [match.instead for match in find(text)]


@pytest.mark.parametrize(
    "text",
    [
        "the `put_aside` of `.replisync/aside/`, and `mend_size`",
        "a bearer token, the part of a path, and None",
        "it is no longer there",
        "look here if the file is missing; the folder where it is",
        "What is a serial?",
        "--beside and verify/mending.py",
    ],
)
def test_an_innocent_word_is_not(text: str) -> None:
    assert list(find(text)) == []


def test_a_match_names_its_line() -> None:
    assert [str(match) for match in find("one\ntwo anew")] == [
        "line 2: 'anew': write again, rebuild, a new .."
    ]
