"""What `node.telemetry.logs` promises: lines that machines can parse and that nobody can forge."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator

import pytest

from federation.names import Origin
from node.config import LogFormat, LogLevel
from node.telemetry.logs import configure, get_logger
from tests.node.support.logs import logging_restored

_EVIL = 'x"\n{"event": "forged"}\x1b[2J\x7f\u202e\u2028 level=error'


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with logging_restored():
        yield


def _events(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_time_level_and_fields() -> None:
    stream = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, stream)
    origin = Origin.parse("hotline.example/main")
    get_logger(peer="ngo.example").info("delta_accepted", origin=origin, ops=3)
    (event,) = _events(stream)
    assert list(event) == ["timestamp", "level", "event", "peer", "origin", "ops"]
    timestamp = str(event.pop("timestamp"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp)
    assert event == {
        "level": "info",
        "event": "delta_accepted",
        "peer": "ngo.example",
        "origin": "hotline.example/main",
        "ops": 3,
    }


def test_auto_is_json_for_a_file_and_for_people_on_a_terminal() -> None:
    for stream, is_json in ((io.StringIO(), True), (_Terminal(), False)):
        configure(LogLevel.INFO, LogFormat.AUTO, stream)
        get_logger().info("started")
        assert stream.getvalue().startswith("{") is is_json
        assert "started" in stream.getvalue()


@pytest.mark.parametrize("level", list(LogLevel))
def test_events_below_the_level_are_not_written(level: LogLevel) -> None:
    stream = io.StringIO()
    configure(level, LogFormat.JSON, stream)
    log = get_logger()
    log.debug("debug")
    log.info("info")
    log.warning("warning")
    log.error("error")
    names = [str(name) for name in LogLevel]
    assert [event["event"] for event in _events(stream)] == names[names.index(level) :]


@pytest.mark.parametrize("format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_a_value_cannot_forge_lines_or_drive_the_terminal(format: LogFormat) -> None:  # noqa: A002
    stream = io.StringIO()
    configure(LogLevel.INFO, format, stream)
    get_logger().info("peer_said", text=_EVIL, nested={"a": _EVIL}, raw=_EVIL.encode())
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


def test_json_keeps_what_a_value_was() -> None:
    stream = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, stream)
    get_logger().info("peer_said", text=_EVIL)
    assert _events(stream)[0]["text"] == _EVIL


def test_on_the_console_a_value_cannot_forge_a_field() -> None:
    stream = io.StringIO()
    configure(LogLevel.INFO, LogFormat.CONSOLE, stream)
    get_logger().info("peer_said", text="a b=c", plain="hotline.example/main", empty="", n=1.5)
    assert "text='a b=c' plain=hotline.example/main empty='' n=1.5\n" in stream.getvalue()


def _fail() -> None:
    raise ValueError("bad\x1b[2J\u202e\nnext")


@pytest.mark.parametrize("format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_an_exception_is_logged_with_its_traceback_and_escaped(format: LogFormat) -> None:  # noqa: A002
    stream = io.StringIO()
    configure(LogLevel.INFO, format, stream)
    try:
        _fail()
    except ValueError:
        get_logger().exception("call_failed")
    text = stream.getvalue()
    assert "Traceback" in text
    assert "ValueError" in text
    assert text.replace("\n", "").isprintable()
    if format is LogFormat.JSON:
        assert len(_events(stream)) == 1


def test_what_libraries_log_becomes_an_event_from_warnings_on() -> None:
    stream = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, stream)
    library = logging.getLogger("some.library")
    library.info("chatter")
    library.warning("got %d of\n%d", 1, 2)
    library.log(35, "odd level")
    (event, odd) = _events(stream)
    assert event["event"] == "library_message"
    assert event["level"] == "warning"
    assert event["logger"] == "some.library"
    assert event["message"] == "got 1 of\n2"
    assert odd["level"] == "warning"


def test_configuring_again_replaces_and_never_doubles() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, first)
    log = get_logger()
    configure(LogLevel.ERROR, LogFormat.JSON, second)
    log.error("late")
    logging.getLogger("some.library").error("once")
    assert first.getvalue() == ""
    assert [event["event"] for event in _events(second)] == ["late", "library_message"]


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for stream, no_color, has_colour in (
        (_Terminal(), "", True),
        (_Terminal(), "1", False),
        (io.StringIO(), "", False),
    ):
        monkeypatch.setenv("NO_COLOR", no_color)
        configure(LogLevel.INFO, LogFormat.CONSOLE, stream)
        get_logger().info("started")
        assert ("\x1b[" in stream.getvalue()) is has_colour


def test_events_go_to_stderr_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogLevel.INFO, LogFormat.JSON)
    get_logger().info("started")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "started"


# --- what a peer can cause --------------------------------------------------------------------


@pytest.mark.parametrize("format", [LogFormat.JSON, LogFormat.CONSOLE])
@pytest.mark.parametrize("text", ["a" * 2_600_000, "\u202e" * 2_600_000, "\U000e0001" * 100_000])
def test_a_long_text_of_a_peer_makes_no_long_line(text: str, format: LogFormat) -> None:  # noqa: A002
    stream = io.StringIO()
    configure(LogLevel.INFO, format, stream)
    get_logger().info("call_refused", detail=text, nested=[text], error=ValueError(text))
    line = stream.getvalue()
    assert len(line) < 20_000
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    assert line.count("more characters)") == 3


def test_a_traceback_ends_with_its_error_however_long_it_is() -> None:
    stream = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, stream)

    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise ValueError("x" * 1_000_000 + " the end")

    try:
        fail(200)
    except ValueError:
        get_logger().exception("call_failed")
    assert len(stream.getvalue()) < 10_000
    assert str(_events(stream)[0]["exception"]).endswith(" the end")


def test_a_flood_of_one_event_is_counted_and_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, stream)
    log = get_logger()
    for number in range(50_000):
        log.info("call_refused", peer="mallory.example", number=number)
    assert len(stream.getvalue()) < 70_000
    written = len(_events(stream))
    log.error("damage_found")
    assert _events(stream)[-1]["event"] == "damage_found"
    now = 59.0
    log.info("call_refused")
    assert len(_events(stream)) == written + 1
    # A minute after the first of them, whichever event comes next.
    now = 61.0
    log.info("scrub_ended")
    told, ended = _events(stream)[-2:]
    assert (told["event"], told["name"]) == ("events_left_out", "call_refused")
    assert told["count"] == 50_001 - written
    assert ended["event"] == "scrub_ended"
    log.info("call_refused")
    assert _events(stream)[-1]["event"] == "call_refused"


def test_events_of_several_threads_are_whole_lines() -> None:
    stream = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, stream)

    def log(name: str) -> None:
        for _ in range(200):
            get_logger().info(name)

    threads = [threading.Thread(target=log, args=(f"event_{at}",)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_events(stream)) == 800
