"""Tiny packages made in memory, the same bytes for the same arguments."""

import base64
import gzip
import hashlib
import io
import re
import tarfile
import zipfile

ZIP_DATE = (2020, 2, 2, 0, 0, 0)


def build_wheel(name: str, version: str, payload: bytes = b"") -> tuple[str, bytes]:
    """Return file name and bytes of a wheel whose module carries the payload as `PAYLOAD`."""
    module = module_name(name)
    info = f"{module}-{version}.dist-info"
    members = {
        f"{module}.py": f"PAYLOAD = {payload!r}\n".encode(),
        f"{info}/METADATA": metadata(name, version),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_record_hash(data)},{len(data)}\n" for path, data in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return f"{module}-{version}-py3-none-any.whl", build_zip(members)


def build_sdist(name: str, version: str, payload: bytes = b"") -> tuple[str, bytes]:
    """Return file name and bytes of a source distribution with a setup.py."""
    module = module_name(name)
    setup = (
        f"from setuptools import setup\nsetup(name={name!r}, version={version!r}, py_modules=[{module!r}])\n"
    )
    members = {
        "PKG-INFO": metadata(name, version),
        "setup.py": setup.encode(),
        f"{module}.py": f"PAYLOAD = {payload!r}\n".encode(),
    }
    folder = f"{module}-{version}"
    return f"{folder}.tar.gz", build_tar_gz({f"{folder}/{path}": data for path, data in members.items()})


def build_docs(title: str) -> bytes:
    """Return a zip file of documentation with one page."""
    return build_zip({"index.html": f"<html><body><h1>{title}</h1></body></html>".encode()})


def build_zip(members: dict[str, bytes]) -> bytes:
    """Return a zip file with fixed dates and modes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in members.items():
            entry = zipfile.ZipInfo(path, ZIP_DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def build_tar_gz(members: dict[str, bytes]) -> bytes:
    """Return a compressed tar file with fixed dates and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in members.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def metadata(name: str, version: str) -> bytes:
    """Return the text of a METADATA or PKG-INFO file."""
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: made by a test\n".encode()


def module_name(name: str) -> str:
    """Return the project's name as a module and as a file name starts with it."""
    return re.sub(r"[-_.]+", "_", name).lower()


def _record_hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"
