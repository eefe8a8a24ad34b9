"""The source of bytes: one primary over HTTP, its secret, its certificates.

Knows HTTP and the meaning of each answer. Must not know how entries are applied or stored.
"""

from replisync.primary.access import Access
from replisync.primary.client import Primary
from replisync.primary.connection import normalized_url
from replisync.primary.secretfiles import check_place, read_secret, write_key
from replisync.primary.tls import Tls

__all__ = [
    "Access",
    "Primary",
    "Tls",
    "check_place",
    "normalized_url",
    "read_secret",
    "write_key",
]
