"""TLS to the primary: trusted CAs, and our certificate. Verification is never switched off."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx

from replisync.errors import UsageError
from replisync.primary.secretfiles import check_private


@dataclass(frozen=True, slots=True)
class Tls:
    """The operator's TLS settings.

    ca_bundle: a PEM file; only the CAs in it are trusted.
    client_cert: a PEM file with a certificate and its key, for a primary or a proxy that requires one.
    """

    ca_bundle: Path | None = None
    client_cert: Path | None = None


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """Return the SSL context; None for the default trust, without a certificate of ours.

    Raises UsageError if a file cannot be used.
    """
    if tls.ca_bundle is None and tls.client_cert is None:
        return None
    if tls.ca_bundle is None:
        context = usual_trust()
    else:
        attempted = f"cannot read {tls.ca_bundle} (--ca-bundle)"
        try:
            context = ssl.create_default_context(cafile=tls.ca_bundle.expanduser())
        except ssl.SSLError as err:
            raise UsageError(attempted, "it holds no certificates in PEM form") from err
        except OSError as err:
            raise UsageError(attempted, err.strerror or str(err)) from err
    if tls.client_cert is not None:
        _show(context, tls.client_cert.expanduser())
    return context


def usual_trust() -> ssl.SSLContext:
    """Return a context with the system's CAs, or those of SSL_CERT_FILE or SSL_CERT_DIR.

    Raises UsageError if a file cannot be used.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as err:  # includes ssl.SSLError
        named = os.environ.get("SSL_CERT_FILE")
        raise UsageError(
            f"cannot read {named or 'the CAs of this machine'} (SSL_CERT_FILE)",
            "it holds no certificates in PEM form"
            if isinstance(err, ssl.SSLError)
            else err.strerror or str(err),
            hint="correct the variable, or name a bundle with --ca-bundle",
        ) from err


def _show(context: ssl.SSLContext, path: Path) -> None:
    """Make a context present a certificate to a server that asks for one."""
    check_private(path, "--replica-cert")
    try:
        # An empty password: OpenSSL must not prompt for one.
        context.load_cert_chain(path, password=b"")
    except (ssl.SSLError, OSError, ValueError) as err:
        raise UsageError(
            f"cannot read {path} (--replica-cert)",
            "it holds no certificate in PEM form with its own key, without a passphrase",
        ) from err
