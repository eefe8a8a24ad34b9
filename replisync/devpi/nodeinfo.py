"""What devpi-server keeps in `.nodeinfo` (`devpi_server/config.py`)."""

from typing import Any

# devpi-server 4.9 and later write, and expect, this state version.
_SERVERVERSION = b"4"


def standby_nodeinfo(uuid: str, primary_uuid: str, primary_url: str, *, before_6_13: bool) -> dict[str, Any]:
    """Return what a devpi replica writes into `.nodeinfo`.

    before_6_13: the primary is older than devpi-server 6.13, and so, probably, is the server of the
        standby: it looks for the name that the field had then. A newer one takes both.
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
    """Return a primary's URL as devpi writes it: without a slash at its end.

    devpi-server replaces it in the answers that it relays; with the slash it would leave one out there.
    """
    return url.rstrip("/")
