"""The token that opens a primary's changelog.

devpi signs the replica's UUID and the time with a key that it derives from the server's secret. The salt,
the parameters and the signature are devpi's (`devpi_server/config.py` get_replica_secret,
`devpi_server/replica.py` get_auth_serializer); the primary accepts a token for 37.6 seconds, and none that
comes from its future.

No I/O here: time is handed in.
"""

from collections.abc import Callable
from dataclasses import dataclass

from argon2.exceptions import HashingError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw
from itsdangerous import TimedSerializer, TimestampSigner

from replisync.errors import UsageError

_SALT = b"devpi-server-replica"
KEY_BYTES = 16

# Of the 37.6 seconds for which the primary takes a token.
_REUSE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class KeyCost:
    """Cost of the key derivation, as devpi-server's options of the same names.

    memory: in KiB.
    """

    memory: int = 524288
    parallelism: int = 8
    time: int = 16


def derive_key(secret: bytes, cost: KeyCost | None = None) -> bytes:
    """Return the replication key of a server's secret.

    It opens the changelog, and nothing else: logins are signed by another key of the same secret, and
    the secret cannot be computed from it. With the default cost this takes seconds and 512 MiB.
    Raises UsageError where argon2 does not take the cost.
    """
    cost = cost or KeyCost()
    try:
        return hash_secret_raw(
            secret,
            _SALT,
            time_cost=cost.time,
            memory_cost=cost.memory,
            parallelism=cost.parallelism,
            hash_len=KEY_BYTES,
            type=Type.ID,
            version=ARGON2_VERSION,
        )
    except HashingError as err:
        raise UsageError("derivation of the key", str(err), hint="see the --argon2 options") from err


class TokenSigner:
    """Make tokens that are valid by the primary's clock.

    key: the replication key.
    clock: returns the time in seconds since the epoch.
    """

    def __init__(self, key: bytes, clock: Callable[[], float]) -> None:
        self._key = key
        self._clock = clock
        self._offset = 0.0
        self._last: tuple[str, int, str] = ("", 0, "")

    def learn(self, primary_time: float) -> None:
        """Take over the primary's time, in seconds since the epoch, from an answer that just came.

        An answer's time has whole seconds, cut off, and is older than now: tokens get a time that may be
        a little early, never one in the primary's future, which it would refuse.
        """
        self._offset = primary_time - self._clock()
        self._last = ("", 0, "")

    def token(self, uuid: str) -> str:
        """Return a token for the replica `uuid`, valid now and for some seconds.

        A token serves for a few seconds: making one costs a good part of a small download.
        """
        # A primary may claim any time; a token can bear none before 1970.
        now = max(0, int(self._clock() + self._offset))
        for_whom, made, token = self._last
        if for_whom != uuid or not 0 <= now - made < _REUSE_SECONDS:
            token = self._make(uuid, now)
            self._last = (uuid, now, token)
        return token

    def _make(self, uuid: str, now: int) -> str:
        class Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return now

        token = TimedSerializer(self._key, signer=Signer).dumps(uuid)
        return token.decode() if isinstance(token, bytes) else token
