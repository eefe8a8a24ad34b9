"""Files by nginx's static path before the primary, as devpi-genconfig sets it up, over http and https."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import trustme

from tests.benchmarks.copies import NO_FILES, check
from tests.benchmarks.machine import Finished, run_measured
from tests.benchmarks.stage import Stage
from tests.support.ports import free_port
from tests.support.waiting import wait_until

_DEADLINE_SECONDS = 20

_CONFIGURATION = """
daemon off; pid {folder}/pid; error_log {folder}/errors; worker_processes 1; {user}
events {{ }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl;
        ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem;
        location ~ /\\+f/ {{ root {serverdir}/+files; try_files $uri @primary; }}
        location / {{ proxy_pass {primary}; proxy_buffering off; proxy_pass_header Date; }}
        location @primary {{ proxy_pass {primary}; proxy_pass_header Date; }}
    }}
}}
"""


class Nginx:
    """A running nginx before a stage's primary.

    http, https: its URLs.
    bundle: the CA of its certificate.
    """

    def __init__(self, stage: Stage, folder: Path) -> None:
        """Write its configuration."""
        folder.mkdir()
        ports = {"http": free_port(), "https": free_port()}
        authority = trustme.CA()
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(folder / "server.pem")
        )
        self.bundle = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.bundle))
        self.http, self.https = (f"{scheme}://127.0.0.1:{port}" for scheme, port in ports.items())
        self.configuration = folder / "nginx.conf"
        user = "user root;" if Path("/root").stat().st_uid == Path(folder).stat().st_uid else ""
        self.configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                serverdir=stage.primary.serverdir,
                primary=stage.primary.url,
                user=user,
                **ports,
            )
        )


def missing_programs() -> list[str]:
    """Return which of the programs are not here that these measurements need."""
    return [name for name in ("nginx", "rsync") if shutil.which(name) is None]


@contextmanager
def before(stage: Stage) -> Iterator[Nginx]:
    """Hold an nginx before the primary."""
    nginx = Nginx(stage, stage.root / "nginx")
    process = subprocess.Popen(["nginx", "-c", str(nginx.configuration)])
    try:
        wait_until(lambda: _answers(nginx), _DEADLINE_SECONDS, "nginx answers")
        yield nginx
    finally:
        process.terminate()
        process.wait()


def _answers(nginx: Nginx) -> bool:
    try:
        return httpx.get(f"{nginx.http}/+api", trust_env=False).is_success
    except httpx.TransportError:
        return False


def clone(stage: Stage, nginx: Nginx, url: str, *, files: bool) -> Finished:
    """Clone the primary through nginx."""
    serverdir = stage.new_standby()
    source = ("--primary-url", url, "--replica-keyfile", stage.keyfile, "--ca-bundle", nginx.bundle)
    more = () if files else NO_FILES
    finished = run_measured(stage.command("clone", "--serverdir", serverdir, *source, *more))
    check(stage, serverdir, files=files)
    return finished


def copied(stage: Stage, *command: str) -> float:
    """Return the seconds in which a program copies the files of the primary."""
    began = time.monotonic()
    subprocess.run([*command, f"{stage.primary.serverdir}/+files", str(stage.new_standby())], check=True)
    return time.monotonic() - began
