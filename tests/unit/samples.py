"""Values and entries as devpi writes them, and ways to compare and cut them."""

import struct
from typing import Any

from devpi_server.fileutil import dumps, loads
from hypothesis import strategies as st

from replisync.devpi.wire import Decoder, Limits

# Small enough that a length which is believed, or a list which is allocated, shows at once.
SMALL = Limits(entry_bytes=64 * 1024)

CONTENT = "0123456789abcdef" * 4
WHEEL = f"root/dev/+f/{CONTENT[:3]}/{CONTENT[3:16]}/pkg-1.0-py3-none-any.whl"


def file_value(content_hash: str = CONTENT, **more: Any) -> dict[str, Any]:
    """Return the value of a release that was uploaded."""
    return {
        "last_modified": "Sun, 22 Nov 2026 11:39:23 GMT",
        "hash_spec": f"sha256={content_hash}",
        "hashes": {"sha256": content_hash},
        "project": "pkg",
        "version": "1.0",
        **more,
    }


def upload() -> dict[str, tuple[str, int, Any]]:
    """Return the changes of an upload, with nearly every type that devpi stores."""
    links = [("pkg-1.0-py3-none-any.whl", WHEEL, ">=3.11", None), ("é ~%.zip", "x/y", None, "yanked")]
    version = {
        "name": "pkg",
        "version": "1.0",
        "description": "Ünïcode — ☃\n" * 3,
        "classifiers": ["a", "b", ""],
        "+elinks": [
            {
                "rel": "releasefile",
                "entrypath": WHEEL,
                "hash_spec": f"sha256={CONTENT}",
                "_log": [{"what": "upload", "who": "root", "when": (2026, 11, 22, 11, 39, 23)}],
            }
        ],
    }
    return {
        WHEEL: ("STAGEFILE", -1, file_value()),
        "root/dev/pkg/1.0/.config": ("PROJVERSION", 3, version),
        "root/dev/pkg/.versions": ("PROJVERSIONS", 3, {"1.0", "1.1", "2!1.0+l.1"}),
        "root/dev/pkg/.simple": ("PROJSIMPLELINKS", 3, {"links": links, "serial": 2**40, "when": 1.5}),
        "root/dev/.projects": ("PROJNAMES", 2, {"pkg"}),
        "root/pypi/.mirrornameschange": ("MIRRORNAMESINIT", -1, 1),
        "root/.config": ("USER", 0, {"pwhash": None, "indexes": {"dev": {"type": "stage", "bases": ()}}}),
        "root/gone/+f/abc/def/x.zip": ("STAGEFILE", 2, None),
        "plugin/key": ("PLUGIN", -1, {b"\0\xff": frozenset((1, 2)), "c": 1 + 2j, "t": (True, False)}),
    }


RENAMES = [f"+files/{WHEEL}-{'7' * 64}-tmp", "+files/root/gone/+f/abc/def/x.zip"]


def dump(value: object) -> bytes:
    """Return what devpi's own code writes."""
    return dumps(value)  # type: ignore[no-any-return]


def load(data: bytes) -> Any:
    """Return what devpi's own code reads."""
    return loads(data)


def entries() -> dict[str, bytes]:
    """Return stored entries as a primary has them, by name."""
    return {
        "empty": dump(({}, [])),
        "renames only": dump(({}, RENAMES)),
        "user": dump(({"root/.config": ("USER", -1, {"pwhash": "x", "created": "2026"})}, [])),
        "upload": dump((upload(), RENAMES)),
        "deletion": dump(({path: (name, 5, None) for path, (name, _, _) in upload().items()}, [])),
    }


def typed(value: Any) -> Any:
    """Return a form of a value that is equal exactly where the values are, their types included."""
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, struct.pack(">d", value)
    if isinstance(value, complex):
        return kind, struct.pack(">dd", value.real, value.imag)
    if isinstance(value, dict):
        return kind, tuple((typed(key), typed(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return kind, tuple(map(typed, value))
    if isinstance(value, set | frozenset):
        return kind, frozenset(map(typed, value))
    return kind, value


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut data at the given offsets."""
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def feed_all(decoder: Decoder, chunks: list[bytes]) -> list[Any]:
    """Return all that a decoder makes of the chunks."""
    return [decoded for chunk in chunks for decoded in decoder.feed(chunk)]


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**80)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
_hashable = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    _hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_hashable, inner, max_size=4)
        | st.sets(_hashable, max_size=4)
    ),
    max_leaves=20,
)
relpaths = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
changes = st.dictionaries(
    relpaths,
    st.tuples(st.sampled_from(["STAGEFILE", "USER", "PLUGIN"]), st.integers(-1, 9), values),
    max_size=4,
)
