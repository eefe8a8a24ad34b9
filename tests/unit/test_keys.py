"""What devpi's keys mean to a replica."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replisync.devpi.keys import (
    Digest,
    expected_digest,
    fetch_problem,
    index_of,
    index_type,
    is_live_file,
    path_problem,
    user_key,
)

SHA, MD5, OTHER = "a" * 64, "b" * 32, "c" * 64
PATH = f"root/dev/+f/{OTHER[:3]}/{OTHER[3:16]}/pkg-1.0.zip"


def file(**fields: Any) -> dict[str, Any]:
    """Return the value of a file that exists."""
    return {"last_modified": "Sun, 22 Nov 2026 11:39:23 GMT", **fields}


class TestExpectedDigest:
    """Which digest a file must have: devpi's own rules."""

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"hash_spec": f"sha256={SHA}"}, f"sha256={SHA}"),
            ({"hash_spec": f"sha256={SHA}", "hashes": {"sha256": SHA}}, f"sha256={SHA}"),
            ({"hash_spec": f"md5={MD5}"}, f"md5={MD5}"),
            ({"hash_spec": f"md5={MD5}", "hashes": {"md5": MD5}}, f"md5={MD5}"),
            ({"hash_spec": f"md5={MD5}", "hashes": {"md5": MD5, "sha256": SHA}}, f"sha256={SHA}"),
            ({"hash_spec": f"sha256={SHA}", "hashes": {"sha256": OTHER}}, f"sha256={SHA}"),
            ({"hash_spec": f"sha256={SHA}", "hashes": {"md5": MD5}}, f"sha256={SHA}"),
            ({"hash_spec": f"md5={MD5}", "hashes": {"sha256": OTHER}}, f"md5={MD5}"),
            ({"hash_spec": "", "hashes": {"sha256": SHA, "md5": MD5}}, f"sha256={SHA}"),
            ({"hashes": {"md5": MD5, "sha1": "d" * 40}}, f"md5={MD5}"),
            ({"hashes": {"sha512": "e" * 128}}, f"sha512={'e' * 128}"),
            ({"hashes": {"sha512": "e" * 128, "nosuch": "1"}}, f"sha512={'e' * 128}"),
            ({"hash_spec": f"sha256={SHA.upper()}"}, f"sha256={SHA}"),
            ({"hash_spec": "", "hashes": {}}, None),
            ({"hash_spec": None, "hashes": None}, None),
            ({"hash_spec": ""}, None),
            ({}, None),
            ({"hash_spec": "nosuch=123"}, None),
            ({"hash_spec": "sha256="}, None),
            ({"hash_spec": "sha256"}, None),
        ],
    )
    def test_rules(self, fields: dict[str, Any], expected: str | None) -> None:
        found = expected_digest(PATH, file(**fields))
        assert (None if found is None else str(found)) == expected

    @pytest.mark.parametrize(
        "name",
        ["pkg-1.0.zip.toxresult-20261122T113923-0", "pkg-1.0.toxresult-0", "pkg-1.0.zip.toxresult-1.json"],
    )
    def test_a_tox_result_with_the_digest_of_the_tested_file_cannot_be_demanded(self, name: str) -> None:
        """devpi-server 6.5.0 to 6.8.x stored such ones; no client can ever verify them."""
        path = f"root/dev/+f/{SHA[:3]}/{SHA[3:16]}/{name}"
        assert expected_digest(path, file(hash_spec=f"sha256={SHA}", hashes={"sha256": SHA})) is None

    def test_a_tox_result_with_its_own_digest_is_demanded(self) -> None:
        path = f"root/dev/+f/{OTHER[:3]}/{OTHER[3:16]}/pkg-1.0.zip.toxresult-20261122-0"
        assert expected_digest(path, file(hash_spec=f"sha256={SHA}")) == Digest("sha256", SHA)

    def test_a_release_in_the_folder_of_its_digest_is_demanded(self) -> None:
        path = f"root/dev/+f/{SHA[:3]}/{SHA[3:16]}/pkg-1.0.zip"
        assert expected_digest(path, file(hash_spec=f"sha256={SHA}")) == Digest("sha256", SHA)

    @pytest.mark.parametrize("algorithm", ["shake_128", "shake_256", "md5-sha1", "", "SHA256", "sm3", "none"])
    def test_an_algorithm_that_cannot_be_checked_everywhere_is_not_demanded(self, algorithm: str) -> None:
        assert Digest.parse(f"{algorithm}=00") is None

    @pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b"])
    def test_each_algorithm_that_is_demanded_can_be_computed(self, algorithm: str) -> None:
        digest = Digest.parse(f"{algorithm}=00")
        assert digest is not None
        assert hashlib.new(digest.algorithm, b"").hexdigest()

    @given(
        st.dictionaries(
            st.sampled_from(["hash_spec", "hashes", "last_modified"]),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.binary(max_size=9)
                | st.sampled_from(["sha256=1", "x", f"md5={MD5}", "="]),
                lambda inner: (
                    st.lists(inner, max_size=2)
                    | st.dictionaries(st.sampled_from(["sha256", "md5", 5, b"x", None]), inner, max_size=2)
                ),
                max_leaves=4,
            ),
        ),
        st.text(max_size=20),
    )
    def test_damaged_values_demand_something_or_nothing_and_never_fail(
        self, value: dict[str, Any], relpath: str
    ) -> None:
        found = expected_digest(relpath, value)
        assert found is None or isinstance(found, Digest)
        assert is_live_file(value) in (True, False)


@pytest.mark.parametrize(
    ("value", "live"),
    [
        (file(), True),
        ({"last_modified": None, "url": "x"}, False),
        ({"url": "https://pypi.org/x", "hash_spec": f"sha256={SHA}"}, False),
        ({}, False),
        (None, False),
        ([], False),
        ("last_modified", False),
    ],
)
def test_a_file_exists_exactly_where_its_value_has_a_time_of_modification(value: object, live: bool) -> None:
    assert is_live_file(value) is live


class TestPaths:
    """No relpath leads out of the files' folder, or can be read in two ways."""

    @pytest.mark.parametrize(
        "relpath",
        [
            *(
                "../x",
                "a/../../x",
                "a/..",
                "..",
                ".",
                "./a",
                "a/./b",
                "",
                "/",
                "/etc/passwd",
                "//a",
                "a//b",
                "a/",
            ),
            *("a/\0/b", "\0", "a\0", "root/dev/+f/../../../../../etc/passwd"),
        ],
    )
    def test_paths_that_are_not_plain_are_refused(self, relpath: str) -> None:
        assert path_problem(relpath)

    @pytest.mark.parametrize(
        "relpath",
        [
            PATH,
            "a",
            "a/b",
            "a/..b/c",
            "a/.../b",
            "a/b..",
            "a/ /b",
            "a/%2e%2e/b",
            "a/\\..\\b",
            "é/日本/x ~",
            "a\n/b",
        ],
    )
    def test_plain_paths_are_taken_whatever_letters_they_have(self, relpath: str) -> None:
        assert path_problem(relpath) == ""

    @given(st.lists(st.sampled_from(["a", "..", ".", "", "b.c", "\0"]), max_size=6).map("/".join))
    def test_a_path_that_is_taken_stays_below_its_folder(self, relpath: str) -> None:
        depth, plain = 0, "\0" not in relpath and not relpath.startswith("/") and relpath != ""
        for part in relpath.split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
            plain = plain and depth > 0
        if not path_problem(relpath):
            assert plain

    @pytest.mark.parametrize(
        ("relpath", "words"),
        [
            ("a/b#c.zip", "'#'"),
            ("#", "'#'"),
            ("a/" + "x" * 256, "more than 255 bytes"),
            ("é" * 128 + "/a", "more than 255 bytes"),
            ("/".join(["x" * 200] * 25), "bytes"),
        ],
    )
    def test_files_that_can_never_be_had_are_named(self, relpath: str, words: str) -> None:
        assert words in fetch_problem(relpath)

    @pytest.mark.parametrize("relpath", [PATH, "a/" + "x" * 255, "é" * 127, "a/%23", "a?b;c&d+e f", "日本"])
    def test_files_that_can_be_had_have_no_problem(self, relpath: str) -> None:
        assert fetch_problem(relpath) == ""


class TestIndexes:
    """Which index a file lies in, and of what type it is."""

    @pytest.mark.parametrize(
        ("relpath", "index", "key"),
        [
            (PATH, "root/dev", "root/.config"),
            ("u/i/+e/https_x/y.zip", "u/i", "u/.config"),
            ("u/i", "u/i", "u/.config"),
            ("u", "u", "u/.config"),
        ],
    )
    def test_the_index_of_a_file_and_the_key_of_its_settings(
        self, relpath: str, index: str, key: str
    ) -> None:
        assert index_of(relpath) == index
        assert user_key(index) == key

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            ({"indexes": {"dev": {"type": "mirror"}}}, "mirror"),
            ({"indexes": {"dev": {"type": "stage"}}}, "stage"),
            ({"indexes": {"dev": {}}}, "stage"),
            ({"indexes": {"other": {"type": "stage"}}}, None),
            ({"indexes": {}}, None),
            ({"indexes": None}, None),
            ({}, None),
            (None, None),
            ("x", None),
            ({"indexes": [1]}, None),
            ({"indexes": 5}, None),
            ({"indexes": {"dev": 5}}, None),
        ],
    )
    def test_the_type_of_an_index_by_its_users_value(self, value: object, kind: str | None) -> None:
        assert index_type(value, "root/dev") == kind

    def test_a_type_of_a_wrong_type_is_still_one_that_can_be_looked_up(self) -> None:
        assert index_type({"indexes": {"dev": {"type": ["mirror"]}}}, "root/dev") not in {"mirror", "stage"}
