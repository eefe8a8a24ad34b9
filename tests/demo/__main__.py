"""`python -m tests.demo`: play the story; exit 0 when all of it went as it should."""

import signal
import sys
import time
from contextlib import suppress
from types import FrameType

from replisync.cli.app import give_up_unwritten, open_standard_streams
from tests.demo.stage import CommandFailed, Stage
from tests.demo.story import play

INTERRUPTED = 130


def main() -> int:
    """Play the story, and leave nothing behind however it ends."""
    open_standard_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    started = time.monotonic()
    try:
        with Stage() as stage:
            play(stage)
    except KeyboardInterrupt:
        code, end = INTERRUPTED, "Interrupted: processes ended, folder removed."
    except (CommandFailed, AssertionError, OSError) as err:
        code, end = 1, f"The demo FAILED: {err}"
    else:
        seconds = time.monotonic() - started
        code, end = 0, f"Done in {seconds:.0f} s. All processes are ended, and the folder is removed."
    with suppress(OSError):  # a terminal or a pipe may be gone
        print(f"\n{end}", file=sys.stderr if code else sys.stdout, flush=True)
    give_up_unwritten()
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
