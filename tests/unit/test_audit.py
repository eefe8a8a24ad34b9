"""The audit of `make check` fails for vulnerabilities alone, never because nobody could be asked."""

import httpx
import pytest

from tests.audit import vulnerabilities, why_not


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(404), "answered 404"),
        (httpx.Response(200, text="<html>"), "Expecting value"),
        (httpx.Response(200, json=[]), "no attribute"),
        (httpx.Response(200, json={"info": {}}), "has no advisories"),
        (httpx.Response(200, json={"vulnerabilities": []}), "has no advisories"),
    ],
)
def test_what_is_no_index_of_advisories_is_told_from_one(answer: httpx.Response, words: str) -> None:
    assert words in why_not(httpx.MockTransport(lambda _: answer))


def test_a_network_that_is_not_there_is_said() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("timed out")

    assert "timed out" in why_not(httpx.MockTransport(refuse))


def test_an_index_that_knows_of_an_old_release_is_asked() -> None:
    known = httpx.Response(200, json={"vulnerabilities": [{"id": "PYSEC-1"}]})
    assert why_not(httpx.MockTransport(lambda _: known)) == ""


def test_each_vulnerability_is_a_line() -> None:
    found = {"id": "PYSEC-1", "fix_versions": ["2.0", "1.1"]}
    packages = [
        {"name": "good", "version": "1.0", "vulns": []},
        {"name": "skipped", "skip_reason": "it is editable"},
        {"name": "bad", "version": "1.0", "vulns": [found]},
    ]
    assert vulnerabilities({"dependencies": packages}) == ["bad 1.0: PYSEC-1, mended in 2.0, 1.1"]
