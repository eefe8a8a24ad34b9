"""The phrases that no text of the project uses, each with what to write instead.

Tests search the documentation, the help and the texts of the code for them. Names of code are not searched: a
phrase never matches inside an identifier, a path or an option.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Idiom(NamedTuple):
    """A banned phrase, and what to write instead."""

    phrase: re.Pattern[str]
    instead: str


class Match(NamedTuple):
    """A banned phrase in a text.

    line: the number of its line, from 1.
    """

    line: int
    words: str
    instead: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.words!r}: write {self.instead}"


def _idiom(phrase: str, instead: str) -> Idiom:
    """Return an idiom; a blank in the phrase stands for any white space, also for the break of a comment."""
    spaced = phrase.replace(" ", r"(?:\s+(?:\#\s*)?)")
    return Idiom(re.compile(rf"(?<![\w./+-])(?:{spaced})(?![\w/-]|\.\w)", re.IGNORECASE), instead)


# `(?-i:none)`: the value None of code is no phrase.
_PRONOUN = "(?:it|that|this|there|they|which|who)"

IDIOMS = (
    # Not the field's word.
    _idiom("mend(?:s|ed|ing|able)?", "repair, fix"),
    _idiom("heal(?:s|ed|ing)?", "repair"),
    _idiom("(?:set|sets|setting) right", "repair, correct"),
    _idiom("anew", "again, rebuild, a new .."),
    _idiom("afresh", "again"),
    _idiom("beside", "next to, compared with, in addition to, while"),
    _idiom("bears?|borne|bearing", "retry, tolerate, carry"),
    _idiom("(?:may|might|will|can) pass(?= [.,;:)]|[.,;:)]| by (?:itself|themselves)| without)", "transient"),
    _idiom("failures? that (?:may )?pass(?:es)?", "transient failures"),
    _idiom(
        "(?:put|puts|putting|set|sets|setting|laid|kept|moved?|moves) (?:aside|apart)", "retain, quarantine"
    ),
    _idiom("(?:history|histories|standby|they|two|primary) parts?", "diverge"),
    _idiom("(?:can|may|might|will) part|parts? (?:from|ways|company)|parted|parting", "diverge"),
    _idiom("so many", "up to N, SECONDS"),
    _idiom("by way of", "through, with"),
    _idiom("be had", "cannot be fetched, is missing, is available"),
    _idiom("(?:get|gets|got|getting) on", "make progress, continue"),
    _idiom("(?:see|sees|saw|seen|seeing) to it", "make sure"),
    _idiom("goes? on where (?:it|they) (?:was|were|stopped|ended)", "resumes"),
    _idiom("of its own accord", "by itself"),
    _idiom("stands? against", "prevents, blocks"),
    _idiom("looks? whether", "checks whether"),
    _idiom("(?:is|are) what (?:it|they) should be", "is intact, is correct"),
    _idiom("known not to be there", "known to be missing"),
    # No actor, or one that does not exist.
    _idiom("nobody|no one", "name the actor and say not; missing"),
    _idiom("somebody|someone", "name the actor: a user, a client, another process"),
    _idiom("whoever", "name the actor"),
    _idiom(rf"{_PRONOUN} (?:is|are|was|were) (?-i:none)", "not, no, missing, without"),
    _idiom(
        "(?:it|that|this|they|which) (?:is|are|was|were) no (?!longer|more|doubt|better|worse|less)[a-z]+",
        "is not a ..",
    ),
    _idiom("no standby of", "not a standby of"),
    _idiom("(?-i:None) where", "None if"),
)

# Sentences that begin with a relative clause; a question may.
OPENINGS = (
    Idiom(
        re.compile(r"(?<![\w`\"'])(?:What|Whatever|Who|Whoever|Whose)\b(?![^.?!|]*\?)"),
        "the subject first: subject, verb, object",
    ),
    Idiom(re.compile(r"(?<![\w`\"'])(?:Where|Wherever)\b(?![^.?!|]*\?)"), "If .., or the subject first"),
)


def find(text: str, idioms: tuple[Idiom, ...] = IDIOMS + OPENINGS) -> Iterator[Match]:
    """Yield the banned phrases in a text, idiom by idiom."""
    for phrase, instead in idioms:
        for match in phrase.finditer(text):
            yield Match(text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), instead)
