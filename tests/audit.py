"""Ask PyPI's advisories about what is installed: `python -m tests.audit [--required]`.

Where there is no index of advisories to be asked, as offline and behind most mirrors, it says so in a line;
with --required that is a failure. Known vulnerabilities always are.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import httpx

# An old release with known vulnerabilities. An index that does not know of them knows of none.
PROBE = "https://pypi.org/pypi/pip/20.0/json"
PROBE_SECONDS = 5.0
AUDIT_SECONDS = 120.0

PIP = ("pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--editable", ".[audit]")
PIP_AUDIT = ("pip_audit", "--local", "--skip-editable", "--timeout", "10", "--format", "json")


def why_not(transport: httpx.BaseTransport | None = None) -> str:
    """Return why the advisories cannot be asked; "" where they can."""
    try:
        with httpx.Client(transport=transport, timeout=PROBE_SECONDS, follow_redirects=True) as client:
            answer = client.get(PROBE)
        if answer.status_code != 200:
            return f"{PROBE} answered {answer.status_code}"
        known = answer.json().get("vulnerabilities")
    except (httpx.HTTPError, ValueError, AttributeError) as err:
        return f"{PROBE}: {err}"
    return "" if known else f"{PROBE} has no advisories"


def vulnerabilities(report: dict[str, Any]) -> list[str]:
    """Return what pip-audit found, a line for each."""
    return [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions'])}"
        for package in report["dependencies"]
        for found in package.get("vulns", ())
    ]


def run(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a module of this interpreter."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=AUDIT_SECONDS,
        check=False,
    )


def audit() -> tuple[str, list[str]]:
    """Return why nothing could be asked, "" where it could, and the vulnerabilities."""
    if reason := why_not():
        return reason, []
    try:
        installed = run(PIP)
        if installed.returncode:
            return f"pip-audit cannot be installed: {installed.stderr.strip()}", []
        done = run(PIP_AUDIT)
        return "", vulnerabilities(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return f"no answer in {AUDIT_SECONDS:.0f} s", []
    except ValueError:
        return done.stderr.strip(), []


def main() -> int:
    """Print what was found."""
    reason, found = audit()
    if reason:
        print(f"audit: the advisories about dependencies could not be asked ({reason})")
        return int("--required" in sys.argv)
    print("\n".join(found) or "audit: no known vulnerability in what is installed")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
