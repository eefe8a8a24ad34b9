"""The token that opens a primary's changelog, and whether a user's hash is that of the empty password.

devpi signs the replica's UUID and the time with a key that it derives from the server's secret. The salt,
the parameters and the signature are devpi's (`devpi_server/config.py` get_replica_secret,
`devpi_server/replica.py` get_auth_serializer).

The primary takes a token whose age, in whole seconds by its own clock, is 0 to 37 (REPLICA_AUTH_MAX_AGE is
37.6); itsdangerous calls older ones expired, and those from its future too. It looks at the signature first:
a token of another secret is "malformed", whatever its time, and one that is "expired" has the right secret.

Let e be how far the primary's clock is ahead of the time that we think it has. A token is stamped 15 seconds
into the past and serves for 5, so its age is between 15 + e and 20 + e: it is good for its whole life while e
is between -15 and +17, and while it is fresh up to +22. Beyond that the primary's time has to be learned. Its
`Date` says it, but a proxy may replace that by its own time, so what `Date` says is only tried first. Else
offsets are tried in steps of 30 seconds, away from what we think to both sides: windows of 32 seconds leave
no gap between them, and two seconds for rounding and for the way of a request.

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

# The search: 10 minutes to both sides, 40 requests. It ends early where the primary answers slowly: its queue
# may be what makes tokens old. In 5 minutes no more than 120 tokens are tried, and none after a search that
# found nothing.
_STEP_SECONDS = 30
_STEPS = 20
_SEARCH_SECONDS = 20.0
_PERIOD_SECONDS = 300.0
_MOST_IN_PERIOD = 120

# A `Date` within this of the time that did not do is another clock than the one that called it expired: where
# it were the primary's own, the token would have been good.
_SAME_SECONDS = 10


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
        raise UsageError("cannot derive the key", str(err), hint="see the --argon2 options") from err


# The most that is spent on a hash, which comes from outside and says itself what it costs. devpi-server takes
# passlib's defaults: 64 MiB, 3 passes and 4 lanes; before argon2-cffi 21.2 100 MiB, 2 passes and 8 lanes.
_HASH_KIB = 128 * 1024
_HASH_PASSES = 8
_HASH_LANES = 16


def is_empty_password(pwhash: str) -> bool:
    """Tell whether a hash accepts the empty password, in a tenth of a second.

    pwhash: as in a user's value (`devpi_server/auth.py` hash_password). What is not argon2, as of old
    devpi-servers, or costs more than a hash of devpi-server's, is not tried: False.
    """
    try:
        cost = extract_parameters(pwhash)
        if cost.memory_cost > _HASH_KIB or cost.time_cost > _HASH_PASSES or cost.parallelism > _HASH_LANES:
            return False
        return PasswordHasher().verify(pwhash, "")
    except (InvalidHash, VerificationError, ValueError):
        return False


class TokenSigner:
    """Make tokens that are valid by the primary's clock. Threads may share it.

    key: the replication key.
    clock: returns the time in seconds since the epoch.
    steady: returns seconds that no setting of a clock changes; `clock` where it is None.
    """

    def __init__(
        self, key: bytes, clock: Callable[[], float], steady: Callable[[], float] | None = None
    ) -> None:
        self._key = key
        self._clock = clock
        self._steady = steady or clock
        self._last: tuple[str, int, str] = ("", 0, "")
        self._period_ends = self._steady()
        self._left = 0  # tokens that may still be tried in this period
        self.offset = 0.0  # of the primary's clock from ours, in seconds, as far as we know

    def keep(self, offset: float) -> None:
        """Make tokens with this offset from now on: the primary took one."""
        self.offset = offset
        self._last = ("", 0, "")

    def offsets(self, expired: float, date: float | None) -> Iterator[tuple[float, float]]:
        """Yield what may be tried after the primary called a token expired, each time one more.

        To be used by one thread at a time, up to the first that the primary takes a token with.
        expired: the offset of that token.
        date: the primary's time by its answer, or that of a proxy before it, in seconds since the epoch; None
            where it does not say.
        Returns offsets to keep, each with the offset to try: for it, a token is as old as tokens get where
        the primary's clock may be ahead, and as young as they get where it may be behind.
        """
        if self.offset != expired:
            # Another thread learned it meanwhile.
            yield self.offset, self.offset
            expired = self.offset
        centres = [expired]
        # The time of an answer has whole seconds, cut off, and is older than now: up to a second too early.
        said = expired if date is None else date - self._clock()
        if abs(said - expired) > _SAME_SECONDS:
            yield said, said
            if abs(said - expired) > _STEPS * _STEP_SECONDS:
                centres.append(said)
        began = self._steady()
        if began >= self._period_ends:
            self._period_ends, self._left = began + _PERIOD_SECONDS, _MOST_IN_PERIOD
        for centre in centres:
            for distance in range(_STEP_SECONDS, (_STEPS + 1) * _STEP_SECONDS, _STEP_SECONDS):
                for offset, tried in (
                    (centre - distance, centre - distance),
                    (centre + distance, centre + distance - _REUSE_SECONDS),
                ):
                    if self._left <= 0 or self._steady() - began > _SEARCH_SECONDS:
                        return
                    self._left -= 1
                    yield offset, tried
        self._left = 0

    def token(self, uuid: str) -> str:
        """Return a token for the replica `uuid`, valid now and for some seconds.

        A token serves for a few seconds: making one costs a good part of a small download.
        """
        now = self._stamp(self.offset)
        for_whom, made, token = self._last
        if for_whom != uuid or not 0 <= now - made < _REUSE_SECONDS:
            token = self._make(uuid, now)
            self._last = (uuid, now, token)
        return token

    def token_by(self, uuid: str, offset: float) -> str:
        """Return a token for the replica `uuid` that is made with this offset, to try it."""
        return self._make(uuid, self._stamp(offset))

    def _stamp(self, offset: float) -> int:
        # A primary may claim any time; a token can bear none before 1970.
        return max(0, int(self._clock() + offset - _BACK_SECONDS))

    def _make(self, uuid: str, now: int) -> str:
        class Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return now

        token = TimedSerializer(self._key, signer=Signer).dumps(uuid)
        return token.decode() if isinstance(token, bytes) else token
