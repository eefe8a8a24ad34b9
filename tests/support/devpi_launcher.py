"""Run devpi-server in this interpreter: `devpi_launcher.py [--clock-shift=SECONDS] --lean|--full ARGS...`.

It only uses the standard library and devpi-server, since it also runs in the environments of old releases.
The server ends when its standard input ends, so that none survives a test run that was killed.
`--lean` leaves devpi-web out, which costs start time and indexes in the background.
`--clock-shift` lets the server believe that it is later, or earlier with a negative number.
"""

import collections
import collections.abc
import os
import sys
import threading
import time

WEB_PLUGINS = ("devpi-web", "devpi-web-whoosh")


def end_with_parent() -> None:
    """Exit as soon as the process that holds our standard input is gone."""
    os.read(0, 1)
    os._exit(99)


def shift_clock(seconds: float) -> None:
    """Shift the time of this process; the server and its libraries are not imported yet."""
    true_time = time.time
    time.time = lambda: true_time() + seconds


def restore_aliases() -> None:
    """Give `collections` back what Python 3.10 moved for good and devpi-server 4 still looks for there."""
    for name in collections.abc.__all__:
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))


def run_lean() -> int:
    """Run the server with all plugins except devpi-web."""
    from devpi_server import hookspecs, main
    from pluggy import PluginManager

    plugins = PluginManager("devpiserver")
    plugins.add_hookspecs(hookspecs)
    for name in WEB_PLUGINS:
        plugins.set_blocked(name)
    plugins.load_setuptools_entrypoints("devpi_server")
    plugins.check_pending()
    with main.CommandRunner(pluginmanager=plugins) as runner:
        runner.return_code = main._main(runner.pluginmanager, sys.argv)
    return runner.return_code or 0


def run_full() -> int:
    """Run the server just as its console script does."""
    restore_aliases()
    from devpi_server.main import main

    return main() or 0


if __name__ == "__main__":
    if sys.argv[1].startswith("--clock-shift="):
        shift_clock(float(sys.argv.pop(1).partition("=")[2]))
    lean = sys.argv[1] == "--lean"
    sys.argv = ["devpi-server", *sys.argv[2:]]
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.exit(run_lean() if lean else run_full())
