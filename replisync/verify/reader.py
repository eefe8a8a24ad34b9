"""A process that reads entries: a program of its own, started with pipes, since reading keeps a core busy.

A message, in both directions, is its length in 4 bytes and then a value as `marshal` writes it, which both
sides read with the same interpreter.

    asked: a list of serials and the stored bytes of their entries
    answered: for each what verify.entries says of it
"""

import marshal
import os
import signal
import struct
import sys
from typing import BinaryIO


def serve(asked: BinaryIO, answered: BinaryIO) -> None:
    """Answer until nobody asks any more."""
    from replisync.verify.entries import read_all

    while len(head := asked.read(4)) == 4:
        body = marshal.dumps(read_all(marshal.loads(asked.read(struct.unpack("!I", head)[0]))))  # noqa: S302
        answered.write(struct.pack("!I", len(body)) + body)
        answered.flush()


if __name__ == "__main__":
    # Who started it ends it, by closing its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # In place of this file's own folder, in which names of the standard library may be.
    sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]
    serve(sys.stdin.buffer, sys.stdout.buffer)
