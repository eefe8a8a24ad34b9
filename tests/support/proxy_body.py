"""The content of one answer on its way through the proxy."""

from http.client import HTTPResponse
from typing import Protocol

from tests.support.faults import Fault

BLOCK = 65_536
LAST_CHUNK = b"0\r\n\r\n"


class Way(Protocol):
    """The way to the client."""

    def write(self, data: bytes) -> None:
        """Send a piece of the content."""

    def pause(self, seconds: float) -> None:
        """Wait."""

    def hold(self, fault: Fault) -> None:
        """Wait until the fault is removed."""

    def cut(self, *, reset: bool) -> None:
        """Close the connection."""


class Body:
    """Copies the content block by block; a fault may change it, slow it down or end it."""

    def __init__(self, response: HTTPResponse, fault: Fault, way: Way) -> None:
        """Take an answer of which the head was read."""
        self.response = response
        self.fault = fault
        self.way = way
        self.sent = 0
        self.sent_framed = 0
        self.cut = False
        # None when the server does not say; 0 where there is no content, e.g. for HEAD and 304.
        self.expected = response.length

    def send(self) -> None:
        """Copy everything, or until the fault ends it."""
        end = self.fault.end_of_content()
        while True:
            if end is not None and self.sent >= end:
                if self.sent == self.fault.end_after:
                    if self.expected is None:
                        self._write(LAST_CHUNK)
                    self.way.cut(reset=False)
                    return
                if not self._stalled():
                    self.way.cut(reset=self.sent == self.fault.reset_after)
                    return
                end, self.fault = None, Fault()
            block = self.response.read1(self._next_size(end))
            if not block:
                break
            self._send_block(block)
            if self.cut:
                return
        self._finish()

    def _stalled(self) -> bool:
        if self.sent != self.fault.stall_after:
            return False
        self.way.hold(self.fault)
        return True

    def _next_size(self, end: int | None) -> int:
        rate = self.fault.bytes_per_second
        size = BLOCK if rate is None else max(1, rate // 10)
        return size if end is None else min(size, end - self.sent)

    def _send_block(self, block: bytes) -> None:
        altered = self.fault.alter(block, self.sent)
        self.sent += len(block)
        self._write(b"%x\r\n%b\r\n" % (len(altered), altered) if self.expected is None else altered)
        if self.fault.bytes_per_second is not None:
            self.way.pause(len(block) / self.fault.bytes_per_second)

    def _write(self, data: bytes) -> None:
        if self.fault.cut_framed_after is not None:
            data = data[: self.fault.cut_framed_after - self.sent_framed]
        self.sent_framed += len(data)
        self.way.write(data)
        if self.sent_framed == self.fault.cut_framed_after:
            self.way.cut(reset=False)
            self.cut = True

    def _finish(self) -> None:
        if self.expected is None:
            self._write(LAST_CHUNK)
        elif self.sent < self.expected:
            raise ConnectionError("the server ended its answer too early")
        # Read to its end: the connection to the server is free for the next request.
        self.response.close()
