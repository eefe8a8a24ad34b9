"""devpi's keys as a replica sees them: which of them carry files, and the paths of those files.

Source: `devpi_server/model.py` (`add_keys`) and `devpi_server/filestore.py`. Unknown kinds of keys, such
as those of plugins, are replicated like all others; nothing here needs to know them.

No I/O here.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# releases, doc zips and tox results; files of mirror links without a digest
FILE_KEYNAMES = frozenset({"STAGEFILE", "PYPIFILE_NOMD5"})

USER_KEYNAME = "USER"

# The keys of the password hash in a user's value; see User.validate in devpi_server/model.py.
PWHASH = "pwhash"
PWSALT = "pwsalt"  # only in hashes of old devpi-servers

# The kinds of keys whose values replication reads; all other values are passed on unread.
READ_KEYNAMES = FILE_KEYNAMES | {USER_KEYNAME}

# Algorithms whose digests have a fixed length.
_ALGORITHMS = frozenset(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake_"))

# The longest name on common file systems, and the longest path that PostgreSQL accepts in an index (its
# limit is a third of a page, 2704 bytes), in bytes.
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 2600

# Characters that no digest has, and the length to which a digest is cut: neither matches any content.
_NO_DIGEST = re.compile("[^0-9a-z]")
_DIGEST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest that a file must have.

    algorithm: a name that hashlib knows.
    hexdigest: lower case.
    """

    algorithm: str
    hexdigest: str

    def __str__(self) -> str:
        return f"{self.algorithm}={self.hexdigest}"

    @classmethod
    def parse(cls, text: str) -> "Digest | None":
        """Return the digest that `algorithm=hexdigest` names; None if it names none that we know.

        An invalid digest becomes one that no content has, in characters that any table and path can hold.
        """
        algorithm, _, hexdigest = text.partition("=")
        if algorithm not in _ALGORITHMS or not hexdigest:
            return None
        return cls(algorithm, _NO_DIGEST.sub("-", hexdigest[:_DIGEST_CHARACTERS].lower()))


def user_name(user_key: str) -> str:
    """Return the name of the user whose settings are at this relpath."""
    return user_key.partition("/")[0]


def without_password(user_value: Any) -> Any:
    """Return a user's value without its password hash: devpi-server then refuses every login."""
    if not isinstance(user_value, Mapping):
        return user_value
    return {name: value for name, value in user_value.items() if name != PWHASH}


def is_live_file(value: Any) -> bool:
    """Return whether the value of a file key says that its file exists on the primary.

    This is devpi's own test: a mirror link that was never fetched has no `last_modified`.
    """
    return isinstance(value, Mapping) and bool(value.get("last_modified"))


def index_of(relpath: str) -> str:
    """Return the `user/index` that a relpath lies in."""
    return "/".join(relpath.split("/", 2)[:2])


def user_key(index: str) -> str:
    """Return the relpath of the key with the settings of the index `user/index`."""
    return f"{index.partition('/')[0]}/.config"


def index_type(user_value: Any, index: str) -> str | None:
    """Return the type of the index `user/index` by its user's value; None if it has no such index."""
    if not isinstance(user_value, Mapping):
        return None
    indexes = user_value.get("indexes")
    settings = indexes.get(index.partition("/")[2]) if isinstance(indexes, Mapping) else None
    if not isinstance(settings, Mapping):
        return None
    kind = settings.get("type", "stage")
    return kind if isinstance(kind, str) else type(kind).__name__


def expected_digest(relpath: str, value: Mapping[str, Any]) -> Digest | None:
    """Return the digest that the file of a live file key must have, or None.

    As in devpi: if `hashes` contradicts `hash_spec`, only `hash_spec` counts; sha256 is preferred, then md5,
    then any other. None for mirror links without a digest, and for the tox results of devpi-server 6.5.0 to
    6.8.x, which carry the digest of the tested file.
    """
    spec = value.get("hash_spec")
    spec = spec if isinstance(spec, str) else ""
    if _is_misfiled_tox_result(relpath, spec):
        return None
    kind, _, hexdigest = spec.partition("=")
    hashes = value.get("hashes")
    hashes = hashes if isinstance(hashes, Mapping) else {}
    if kind and hashes.get(kind) != hexdigest:
        return Digest.parse(spec)
    for algorithm in ("sha256", "md5", *sorted(name for name in hashes if isinstance(name, str))):
        named = hashes.get(algorithm)
        found = Digest.parse(f"{algorithm}={named}") if isinstance(named, str) else None
        if found is not None:
            return found
    return None


def _is_misfiled_tox_result(relpath: str, spec: str) -> bool:
    parts = relpath.split("/")
    return ".toxresult-" in parts[-1] and spec.partition("=")[2][:16] == "".join(parts[-3:-1])


def path_problem(relpath: str) -> str:
    """Return why a relpath is not a path below the files' folder; "" if it is one.

    Changelogs are untrusted: no relpath may lead out of the folder, or be read in two ways. A user who may
    create users on the primary can name one "..", and a page that a mirror reads can contain any name.
    """
    if "\0" in relpath:
        return "its name has a NUL character"
    if any(part in ("", ".", "..") for part in relpath.split("/")):
        return "its path is not plain"
    return ""


def fetch_problem(relpath: str) -> str:
    """Return why a file can never be fetched over HTTP, or have a path here; "" if it can."""
    if "#" in relpath:
        return "its name has a '#', at which devpi-server cuts every request"
    return hold_problem(relpath)


def hold_problem(relpath: str) -> str:
    """Return why a key can never be a path here; "" if it can."""
    if problem := path_problem(relpath):
        return problem
    if len(relpath.encode()) > MAX_PATH_BYTES:
        return f"its path has more than {MAX_PATH_BYTES} bytes"
    if max(len(part.encode()) for part in relpath.split("/")) > MAX_NAME_BYTES:
        return f"a component of its path has more than {MAX_NAME_BYTES} bytes"
    return ""
