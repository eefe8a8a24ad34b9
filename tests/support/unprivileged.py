"""Run replisync as another user: `unprivileged.py UID ARGS...`.

Everything is imported before the user changes, since the interpreter itself may lie where that user may not
look, as in root's home.
"""

import os
import sys
from contextlib import suppress

import alembic.command  # noqa: F401
import httpx
import sqlalchemy.dialects.sqlite  # noqa: F401

from replisync.cli.app import run

if __name__ == "__main__":
    with httpx.Client(trust_env=False) as client, suppress(httpx.TransportError):
        # Makes httpx import what it only imports when it is used.
        client.get("http://127.0.0.1:9/")
    user = int(sys.argv[1])
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    sys.exit(run(sys.argv[2:]))
