"""Formats that devpi-server defines: values on the wire, entries, keys, tokens, storage, `.nodeinfo`.

Knows the formats of devpi-server 4 to 6. Does no I/O, and must not know what is done with any of it.
"""

from replisync.devpi.entries import EMPTY_ENTRY, ChangelogEntry, KeyChange, digest, parse_stored, same_entry
from replisync.devpi.keys import (
    FILE_KEYNAMES,
    PWHASH,
    PWSALT,
    READ_KEYNAMES,
    USER_KEYNAME,
    Digest,
    fetch_problem,
    hold_problem,
    index_of,
    index_type,
    path_problem,
    user_key,
    user_name,
    without_password,
)
from replisync.devpi.nodeinfo import plain_url, standby_nodeinfo
from replisync.devpi.storage import POSTGRES, SQLITE, Storage
from replisync.devpi.tokens import KeyCost, derive_key, is_empty_password

__all__ = [
    "EMPTY_ENTRY",
    "FILE_KEYNAMES",
    "POSTGRES",
    "PWHASH",
    "PWSALT",
    "READ_KEYNAMES",
    "SQLITE",
    "USER_KEYNAME",
    "ChangelogEntry",
    "Digest",
    "KeyChange",
    "KeyCost",
    "Storage",
    "derive_key",
    "digest",
    "fetch_problem",
    "hold_problem",
    "index_of",
    "index_type",
    "is_empty_password",
    "parse_stored",
    "path_problem",
    "plain_url",
    "same_entry",
    "standby_nodeinfo",
    "user_key",
    "user_name",
    "without_password",
]
