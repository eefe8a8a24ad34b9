"""`python -m tests.demo`: play the story; exit 0 when all of it went as it should."""

import signal
import sys
import time
from types import FrameType

from tests.demo.stage import CommandFailed, Stage
from tests.demo.story import play

INTERRUPTED = 130


def main() -> int:
    """Play the story, and leave nothing behind however it ends."""
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    try:
        with Stage() as stage:
            play(stage)
    except KeyboardInterrupt:
        print("\nInterrupted: processes ended, folder removed.", file=sys.stderr)
        return INTERRUPTED
    except (CommandFailed, AssertionError, OSError) as err:
        print(f"\nThe demo FAILED: {err}", file=sys.stderr)
        return 1
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. All processes are ended, and the folder is removed."
    )
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
