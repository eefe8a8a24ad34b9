"""What the proxy may do to an answer; offsets count bytes of the content, whatever its framing."""

import re
from dataclasses import dataclass, field

GARBAGE = b"\xde\xad\xbe\xef" * 4


@dataclass(eq=False)
class Fault:
    """One kind of damage for the requests whose path matches; all effects given are combined.

    `path` is a regular expression that must match from the start of the path and query.
    The first `skip` matching requests pass undamaged; after `times` damaged ones the fault is spent.
    """

    path: str = "/"
    times: int | None = None
    skip: int = 0

    # Instead of an answer of the server
    status: int | None = None
    location: str | None = None
    body: bytes = b"made up by the proxy\n"
    disconnect: bool = False  # close without a byte
    reset: bool = False  # the same with RST

    # To the request on its way
    request_headers: dict[str, str | None] = field(default_factory=dict)
    request_path: str | None = None

    # To the head of the answer; None removes a header
    delay_seconds: float = 0
    headers: dict[str, str | None] = field(default_factory=dict)
    content_length_delta: int = 0

    # To the content
    cut_after: int | None = None  # close after N bytes
    cut_framed_after: int | None = None  # close after N bytes, the framing of chunks counted in
    end_after: int | None = None  # end the content after N bytes as if that were all of it
    reset_after: int | None = None  # RST after N bytes
    stall_after: int | None = None  # send nothing more until the fault is removed
    garbage_at: int | None = None  # overwrite the bytes from offset N on
    flip_at: int | None = None  # change one bit of the byte at offset N
    insert_at: int | None = None  # send garbage between bytes N-1 and N
    bytes_per_second: int | None = None

    # Counted by the proxy
    matched: int = 0
    done: int = 0

    def strikes(self, path: str) -> bool:
        """Decide for one request, and count it."""
        if not re.match(self.path, path) or self.spent:
            return False
        self.matched += 1
        if self.matched <= self.skip:
            return False
        self.done += 1
        return True

    @property
    def spent(self) -> bool:
        """Whether the fault has struck as often as it should."""
        return self.times is not None and self.done >= self.times

    @property
    def answers_itself(self) -> bool:
        """Whether the server never sees the request."""
        return self.status is not None or self.disconnect or self.reset

    @property
    def changes_length(self) -> bool:
        """Whether the content does not have the length that the head says."""
        return bool(self.content_length_delta) or self.insert_at is not None

    def alter(self, block: bytes, start: int) -> bytes:
        """Damage a block of the content that begins at the offset `start`."""
        data = bytearray(block)
        if self.flip_at is not None and start <= self.flip_at < start + len(block):
            data[self.flip_at - start] ^= 0x01
        if self.garbage_at is not None:
            _overwrite(data, GARBAGE, self.garbage_at - start)
        if self.insert_at is not None and start <= self.insert_at < start + len(block):
            at = self.insert_at - start
            data[at:at] = GARBAGE
        return bytes(data)

    def end_of_content(self) -> int | None:
        """Return the offset at which the content stops short, if it does."""
        ends = (self.cut_after, self.end_after, self.reset_after, self.stall_after)
        return min((end for end in ends if end is not None), default=None)


def _overwrite(data: bytearray, piece: bytes, at: int) -> None:
    for number, byte in enumerate(piece):
        if 0 <= at + number < len(data):
            data[at + number] = byte
