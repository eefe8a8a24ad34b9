"""The content of devpi-server's `.nodeinfo` (`devpi_server/config.py`)."""

from typing import Any

# The state version that devpi-server 4.9 and later write and expect.
_SERVERVERSION = b"4"


def standby_nodeinfo(uuid: str, primary_uuid: str, primary_url: str, *, before_6_13: bool) -> dict[str, Any]:
    """Return the content of `.nodeinfo` of a devpi replica.

    before_6_13: the primary is older than devpi-server 6.13, and so, probably, is the standby's server: use
        the field's old name. Newer servers accept both.
    """
    info = {
        "uuid": uuid,
        "role": "replica",
        "masterurl": plain_url(primary_url),
        "primary-uuid": primary_uuid,
    }
    if before_6_13:
        info["master-uuid"] = primary_uuid
    return info


def plain_url(url: str) -> str:
    """Return a primary's URL as devpi writes it: without a trailing slash.

    devpi-server replaces this URL in relayed answers; a trailing slash would swallow one there.
    """
    return url.rstrip("/")
