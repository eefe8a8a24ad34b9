"""The operator's settings for reaching a primary, and the primary that they lead to."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from replisync.devpi.tokens import KeyCost, TokenSigner
from replisync.devpi.wire import Limits
from replisync.primary.client import Primary
from replisync.primary.connection import POLL_SECONDS, Link
from replisync.primary.secretfiles import replication_key
from replisync.primary.tls import Tls, tls_context


@dataclass(frozen=True, slots=True)
class Access:
    """The settings of every command that asks a primary.

    secretfile, keyfile: the primary's secret, or the key derived from it; one of them is enough.
    cost: of that derivation.
    tls: trusted CAs, and our certificate.
    threads: the number of parallel downloads.
    silence: seconds without a byte after which to give up on the primary.
    entry_bytes: the longest accepted changelog entry.
    """

    secretfile: Path | None = None
    keyfile: Path | None = None
    cost: KeyCost = field(default_factory=KeyCost)
    tls: Tls = field(default_factory=Tls)
    threads: int = 4
    silence: float = POLL_SECONDS
    entry_bytes: int = Limits().entry_bytes

    @property
    def has_secret(self) -> bool:
        """Whether the primary can be asked for its changelog and its files."""
        return self.secretfile is not None or self.keyfile is not None

    def signer(self) -> TokenSigner:
        """Return the signer of our tokens.

        Raises UsageError if the secret cannot be used.
        """
        key = replication_key(self.secretfile, self.keyfile, self.cost)
        return TokenSigner(key, time.time, time.monotonic)

    def primary(self, url: str, uuid: str, expected: str, *, secret: bool = True) -> Primary:
        """Return the primary at a URL, without connecting.

        uuid: the one that we show.
        expected: the one that the primary must have; "" for any.
        secret: whether its changelog is to be read.
        Raises UsageError if the secret, or a file for TLS, cannot be used.
        """
        link = Link(Limits(self.entry_bytes), silence=self.silence, context=tls_context(self.tls))
        return Primary(url, self.signer() if secret else None, uuid=uuid, expected=expected, link=link)
