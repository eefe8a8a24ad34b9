"""The token that gives access to a primary's changelog, and a check for hashes of the empty password.

devpi signs the replica's UUID and the time with a key that it derives from the server's secret. The salt,
the parameters and the signature are devpi's (`devpi_server/config.py` get_replica_secret,
`devpi_server/replica.py` get_auth_serializer).

The primary accepts a token whose age, in whole seconds by its own clock, is 0 to 37 (REPLICA_AUTH_MAX_AGE is
37.6); itsdangerous calls older ones expired, and those from its future too. It checks the signature first: a
token of another secret is "malformed", whatever its time, and an "expired" one has the right secret.

Let e be how far the primary's clock is ahead of the time that we assume for it. A token is stamped 15 seconds
into the past and used for 5, so its age is between 15 + e and 20 + e: it is valid for all its use while e is
between -15 and +17, and while it is fresh up to +22. Beyond that, learn the primary's time. Its `Date` header
tells it, but a proxy may replace the header, so the time in `Date` is only tried first. Otherwise try offsets
in steps of 30 seconds, in both directions: windows of 32 seconds leave no gap between them, and two seconds
for rounding and for the duration of a request.

No I/O here: time is handed in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import HashingError, InvalidHash, VerificationError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw
from itsdangerous import TimedSerializer, TimestampSigner

from replisync.errors import UsageError

_SALT = b"devpi-server-replica"
KEY_BYTES = 16

_BACK_SECONDS = 15
_REUSE_SECONDS = 5

# The search: 10 minutes in both directions, 40 requests. It ends early if the primary answers slowly: its
# queue may be what makes tokens old. At most 120 tokens are tried in 5 minutes, and none after a search that
# found nothing.
_STEP_SECONDS = 30
_STEPS = 20
_SEARCH_SECONDS = 20.0
_PERIOD_SECONDS = 300.0
_MOST_IN_PERIOD = 120

# A `Date` this close to the time that failed is not the clock that called the token expired: by that clock,
# the token would have been valid.
_SAME_SECONDS = 10


@dataclass(frozen=True, slots=True)
class KeyCost:
    """Cost of the key derivation, as in devpi-server's options of the same names.

    memory: in KiB.
    """

    memory: int = 524288
    parallelism: int = 8
    time: int = 16


def derive_key(secret: bytes, cost: KeyCost | None = None) -> bytes:
    """Return the replication key of a server's secret.

    It gives access to the changelog only: logins are signed with another key of the same secret, and the
    secret cannot be computed from it. With the default cost this takes seconds and 512 MiB.
    Raises UsageError if argon2 rejects the cost.
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
        raise UsageError("cannot derive the key", str(err), hint="see the --argon2 options") from err


# The most that is spent on a hash, which is untrusted and states its own cost. devpi-server uses passlib's
# defaults: 64 MiB, 3 passes and 4 lanes; before argon2-cffi 21.2, 100 MiB, 2 passes and 8 lanes.
_HASH_KIB = 128 * 1024
_HASH_PASSES = 8
_HASH_LANES = 16


def is_empty_password(pwhash: str) -> bool:
    """Return whether a hash accepts the empty password, in a tenth of a second.

    pwhash: as in a user's value (`devpi_server/auth.py` hash_password). A hash that is not argon2 (of old
    devpi-servers), or costs more than one of devpi-server, is not tried: False.
    """
    try:
        cost = extract_parameters(pwhash)
        if cost.memory_cost > _HASH_KIB or cost.time_cost > _HASH_PASSES or cost.parallelism > _HASH_LANES:
            return False
        return PasswordHasher().verify(pwhash, "")
    except (InvalidHash, VerificationError, ValueError):
        return False


class TokenSigner:
    """Make tokens that are valid by the primary's clock. Safe to share between threads.

    key: the replication key.
    clock: returns the time in seconds since the epoch.
    steady: returns monotonic seconds; None for `clock`.
    """

    def __init__(
        self, key: bytes, clock: Callable[[], float], steady: Callable[[], float] | None = None
    ) -> None:
        self._key = key
        self._clock = clock
        self.steady = steady or clock
        self._last: tuple[str, int, str] = ("", 0, "")
        self._period_ends = self.steady()
        self._left = 0  # tokens that may still be tried in this period
        self.offset = 0.0  # of the primary's clock from ours, in seconds, as far as known

    def keep(self, offset: float) -> None:
        """Use this offset from now on: the primary accepted it."""
        self.offset = offset
        self._last = ("", 0, "")

    def offsets(self, expired: float, date: float | None, took: float = 0.0) -> Iterator[tuple[float, float]]:
        """Yield offsets to try after the primary called a token expired.

        For one thread at a time, up to the first offset that the primary accepts.
        expired: the offset of the rejected token.
        date: the primary's time by its answer (or a proxy's), in seconds since the epoch, or None.
        took: seconds from the request to that answer.
        Yields pairs: the offset to keep, and the offset to try for it. The tried token is as old as tokens
        get if the primary's clock may be ahead, and as young as they get if it may be behind.
        """
        if self.offset != expired:
            # Another thread has learned it meanwhile.
            yield self.offset, self.offset
            expired = self.offset
        elif took > _REUSE_SECONDS:
            # The token may have expired on its way, as to a server that is busy with its start.
            yield expired, expired
        centres = [expired]
        # `Date` has whole seconds, rounded down, and is older than now: up to a second too early.
        said = expired if date is None else date - self._clock()
        if abs(said - expired) > _SAME_SECONDS:
            yield said, said
            if abs(said - expired) > _STEPS * _STEP_SECONDS:
                centres.append(said)
        began = self.steady()
        if began >= self._period_ends:
            self._period_ends, self._left = began + _PERIOD_SECONDS, _MOST_IN_PERIOD
        for centre in centres:
            for distance in range(_STEP_SECONDS, (_STEPS + 1) * _STEP_SECONDS, _STEP_SECONDS):
                for offset, tried in (
                    (centre - distance, centre - distance),
                    (centre + distance, centre + distance - _REUSE_SECONDS),
                ):
                    if self._left <= 0 or self.steady() - began > _SEARCH_SECONDS:
                        return
                    self._left -= 1
                    yield offset, tried
        self._left = 0

    def token(self, uuid: str) -> str:
        """Return a token for the replica `uuid`, valid now and for some seconds.

        Tokens are reused for a few seconds: making one costs much of a small download.
        """
        now = self._stamp(self.offset)
        for_whom, made, token = self._last
        if for_whom != uuid or not 0 <= now - made < _REUSE_SECONDS:
            token = self._make(uuid, now)
            self._last = (uuid, now, token)
        return token

    def token_by(self, uuid: str, offset: float) -> str:
        """Return a token for the replica `uuid` with this offset, to try it."""
        return self._make(uuid, self._stamp(offset))

    def _stamp(self, offset: float) -> int:
        # A primary may claim any time, but a token cannot carry one before 1970.
        return max(0, int(self._clock() + offset - _BACK_SECONDS))

    def _make(self, uuid: str, now: int) -> str:
        class Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return now

        token = TimedSerializer(self._key, signer=Signer).dumps(uuid)
        return token.decode() if isinstance(token, bytes) else token
