"""What is said while work is under way: log lines, and how far it is."""

import errno
import io
import json
import os
import sys
from contextlib import redirect_stderr

import click
import pytest
from rich.progress import TextColumn

from replisync.cli.logs import make_logger, printable
from replisync.cli.progress import Bars, Lines, make_display
from tests.fakes import RecordingLog
from tests.support.terminal import screen
from tests.support.waiting import wait_until

WINDOW = {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class TestLogs:
    """JSON where nobody looks, words on a terminal; levels are kept."""

    def test_outside_of_a_terminal_each_line_is_an_object(self) -> None:
        stream = io.StringIO()
        make_logger("info", None, stream).info("committed", serial=7, name="é")
        (line,) = stream.getvalue().splitlines()
        fields = json.loads(line)
        assert fields.pop("timestamp").endswith("Z")
        assert fields == {"event": "committed", "serial": 7, "name": "é", "level": "info"}
        assert "é" in line

    def test_on_a_terminal_lines_are_words(self) -> None:
        stream = Terminal()
        make_logger("info", None, stream).info("committed", serial=7)
        assert "committed" in stream.getvalue()
        assert not stream.getvalue().startswith("{")

    def test_the_form_that_is_asked_for_wins(self) -> None:
        stream, terminal = io.StringIO(), Terminal()
        make_logger("info", "console", stream).info("committed", serial=7)
        make_logger("info", "json", terminal).info("committed", serial=7)
        assert "serial=7" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()
        assert json.loads(terminal.getvalue())["serial"] == 7

    @pytest.mark.parametrize(
        ("level", "said"),
        [
            ("debug", ["debug", "info", "warning", "error"]),
            ("info", ["info", "warning", "error"]),
            ("warning", ["warning", "error"]),
            ("error", ["error"]),
        ],
    )
    def test_what_is_below_the_level_is_not_said(self, level: str, said: list[str]) -> None:
        stream = io.StringIO()
        log = make_logger(level, "json", stream)
        for name in ("debug", "info", "warning", "error"):
            getattr(log, name)(name)
        assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == said

    def test_an_exception_is_told_with_its_traceback(self) -> None:
        stream = io.StringIO()
        try:
            raise ValueError("deep")
        except ValueError:
            make_logger("info", "json", stream).error("bug", exc_info=True)
        assert "ValueError: deep" in json.loads(stream.getvalue())["exception"]


class FullDisk(io.StringIO):
    """A stream that cannot be written to for a while."""

    full = True

    def write(self, text: str) -> int:
        """Fail, or write."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


class GoneTerminal(FullDisk, Terminal):
    """A terminal that is taken away for a while."""

    full = False


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_log_that_cannot_be_written_stops_nothing(form: str) -> None:
    """Neither a full disk under it, nor a reader that has gone, ends a follower."""
    stream = FullDisk()
    log = make_logger("debug", form, stream)
    for say in (log.debug, log.info, log.warning, log.error):
        say("lost")
    stream.full = False
    log.info("found")
    assert "lost" not in stream.getvalue()
    assert "found" in stream.getvalue()


@pytest.mark.parametrize("text", ["plain", "caf\u00e9 \u65e5\u672c", "50 % of #1; ?"])
def test_what_can_be_printed_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[2Jb", "a\\x1b[2Jb"), ("\x07", "\\x07"), ("a\nb", "a\\nb"), (os.fsdecode(b"\xff"), "\\udcff")],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    """Names of files come from the primary, and its words may be anybody's."""
    assert printable(text) == shown
    terminal = Terminal()
    make_logger("info", "console", terminal).info("event", value=text)
    assert text not in terminal.getvalue()
    assert shown in terminal.getvalue().replace("'", "")


class Clock:
    """A clock that goes on when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class TestLines:
    """A log line every few seconds, with counts, rate and time left."""

    def test_nothing_is_said_before_it_is_time(self) -> None:
        log, clock = RecordingLog(), Clock()
        lines = Lines(log, clock)
        lines.stage("files", 100, "files")
        for _ in range(50):
            lines.advance(1)
        assert log.lines == []

    def test_a_line_has_counts_rate_and_time_left(self) -> None:
        log, clock = RecordingLog(), Clock()
        lines = Lines(log, clock)
        lines.stage("files", 100, "files")
        clock.now += 10
        lines.advance(20, 5_000)
        ((level, event, values),) = log.lines
        assert (level, event) == ("info", "progress")
        assert values["stage"] == "files"
        assert (values["done"], values["total"], values["unit"]) == (20, 100, "files")
        assert (values["bytes"], values["per_second"], values["seconds_left"]) == (5_000, 2.0, 40)

    def test_lines_are_seconds_apart(self) -> None:
        log, clock = RecordingLog(), Clock()
        lines = Lines(log, clock)
        lines.stage("files", 1000, "files")
        for _ in range(600):
            clock.now += 0.1
            lines.advance(1)
        assert 8 <= len(log.lines) <= 13

    def test_a_stage_begins_at_nothing(self) -> None:
        log, clock = RecordingLog(), Clock()
        lines = Lines(log, clock)
        lines.stage("metadata", 10, "serials")
        clock.now += 60
        lines.advance(10, 1)
        lines.stage("files", 5, "files")
        clock.now += 10
        lines.advance(1)
        assert log.lines[-1][2]["stage"] == "files"
        assert log.lines[-1][2]["done"] == 1
        assert log.lines[-1][2]["per_second"] == 0.1

    def test_one_large_file_is_reported_while_it_arrives(self) -> None:
        """By its bytes; the rest of it is what is left."""
        log, clock = RecordingLog(), Clock()
        lines = Lines(log, clock)
        lines.stage("files", 1, "files")
        for done in (1_000, 2_000, 3_000):
            clock.now += 5
            lines.receiving("large.whl", done, 6_000)
        assert [values["bytes"] for _, _, values in log.lines] == [1_000, 2_000, 3_000]
        assert log.lines[-1][2]["seconds_left"] == 15
        lines.received("large.whl")
        clock.now += 5
        lines.advance(1, 6_000)
        assert (log.lines[-1][2]["bytes"], log.lines[-1][2]["done"]) == (6_000, 1)

    def test_where_the_total_is_not_known_the_time_left_is_not_either(self) -> None:
        log, clock = RecordingLog(), Clock()
        lines = Lines(log, clock)
        lines.stage("changes", None, "serials")
        clock.now += 10
        lines.advance(1)
        assert log.lines[-1][2]["seconds_left"] is None

    def test_more_than_the_total_leaves_no_negative_time(self) -> None:
        log, clock = RecordingLog(), Clock()
        lines = Lines(log, clock)
        lines.stage("changes", 2, "serials")
        clock.now += 10
        lines.advance(5)
        assert log.lines[-1][2]["seconds_left"] == 0


class TestBars:
    """A bar for each stage on a terminal, and log lines above them; a display that fails ends nothing."""

    def test_a_stage_that_comes_again_has_the_same_bar(self) -> None:
        """`follow` has one bar, however often changes arrive, and whether their number is known or not."""
        terminal = Terminal()
        display = make_display(terminal, WINDOW)
        bars = Bars(RecordingLog(), display)
        with bars.live():
            for total in (3, 5, None):
                bars.stage("changes", total, "serials")
                bars.advance(2, 10)
            bars.stage("files", 0, "files")
        changes, files = screen(terminal.getvalue())
        assert "changes" in changes
        assert "2/? serials  0.0 MB" in changes
        assert "0/0 files" in files

    @pytest.mark.parametrize("columns", [0, 1, 20, 300])
    def test_a_bar_is_no_wider_than_the_window(self, columns: int) -> None:
        """One that is would be left behind at each drawing; 0 is a width that nobody set."""
        terminal = Terminal()
        bars = Bars(RecordingLog(), make_display(terminal, {**WINDOW, "COLUMNS": str(columns)}))
        with bars.live():
            bars.stage("metadata", 1_000_000, "serials")
            bars.advance(999_999, 10**12)
        lines = screen(terminal.getvalue())
        assert len(lines) <= 1
        assert all(len(line) <= (columns or 80) for line in lines)

    def test_more_than_the_total_is_the_total(self) -> None:
        terminal = Terminal()
        bars = Bars(RecordingLog(), make_display(terminal, WINDOW))
        with bars.live():
            bars.stage("files", 2, "files")
            bars.advance(3)
        assert "3/3 files" in screen(terminal.getvalue())[0]

    @pytest.mark.parametrize("form", ["console", "json"])
    def test_a_log_line_has_a_line_of_its_own(self, form: str) -> None:
        """As long as it is, and with what rich would read as markup."""
        terminal, text = Terminal(), "[bold]/x[/] :smile: " + "long " * 100
        with redirect_stderr(terminal):
            log = make_logger("info", form)
            bars = Bars(log, make_display(terminal, WINDOW))
            with bars.live():
                for number in range(3):
                    bars.stage("files", 10, "files")
                    bars.advance(number)
                    log.info("event", number=number, text=text)
        *lines, bar = screen(terminal.getvalue())
        assert [f"{number}" in line and text.strip() in line for number, line in enumerate(lines)] == [
            True
        ] * 3
        assert "2/10 files" in bar

    def test_lines_that_come_in_pieces_stand_above_the_bars(self) -> None:
        """As print and click write them, and the interpreter a traceback; also what has no end."""
        terminal = Terminal()
        with redirect_stderr(terminal):
            bars = Bars(RecordingLog(), make_display(terminal, WINDOW))
            with bars.live():
                bars.stage("files", 10, "files")
                print("in", "pieces", file=sys.stderr)
                click.echo("of click", err=True)
                print("without end", end="", file=sys.stderr)
        *lines, bar = screen(terminal.getvalue())
        assert lines == ["in pieces", "of click", "without end"]
        assert "0/10 files" in bar

    def test_a_display_that_cannot_draw_is_switched_off(self) -> None:
        """It is said once; from then on there are log lines, which go on counting."""
        terminal, log, clock = Terminal(), RecordingLog(), Clock()
        display = make_display(terminal, WINDOW)
        bars = Bars(log, display, clock)
        with bars.live():
            bars.stage("files", 10, "files")
            bars.advance(4)
            display.columns = (TextColumn("{task.fields[nothing]}"),)
            bars.stage("files", 10, "files")
            bars.advance(4)
            bars.stage("changes", 8, "serials")
            bars.advance(1)
            clock.now += 10
            bars.advance(3)
        (_, said, why), (_, event, values) = log.lines
        assert (said, why) == ("cannot show progress", {"error": "KeyError: 'nothing'"})
        assert (event, values["stage"], values["done"], values["total"]) == ("progress", "changes", 4, 8)

    def test_a_display_that_fails_while_nothing_happens_is_switched_off(self) -> None:
        terminal, log = Terminal(), RecordingLog()
        display = make_display(terminal, WINDOW)
        bars = Bars(log, display)
        with bars.live():
            bars.stage("files", 10, "files")
            display.columns = (TextColumn("{task.fields[nothing]}"),)
            wait_until(lambda: log.lines, 30, "it is said")
            bars.advance(1)
        assert [event for _, event, _ in log.lines] == ["cannot show progress"]

    def test_a_terminal_that_is_gone_stops_nothing(self) -> None:
        """Neither bars nor log lines can be written, until somebody opens it again."""
        terminal = GoneTerminal()
        with redirect_stderr(terminal):
            log = make_logger("info", "json")
            bars = Bars(log, make_display(terminal, WINDOW))
            with bars.live():
                bars.stage("files", 10, "files")
                terminal.full = True
                bars.advance(1)
                log.info("lost")
                bars.stage("changes", None, "serials")
                terminal.full = False
                log.info("found")
        assert "lost" not in terminal.getvalue()
        assert '"event": "found"' in screen(terminal.getvalue())[-1]

    def test_no_cursor_is_hidden_while_bars_are_drawn(self) -> None:
        """A process that is killed could not show it again."""
        terminal = Terminal()
        bars = Bars(RecordingLog(), make_display(terminal, WINDOW))
        with bars.live():
            bars.stage("files", 10, "files")
            drawn = terminal.getvalue()
        assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l")
