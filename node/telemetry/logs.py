"""Structured events on stderr: JSON Lines for machines, one colored line each on a terminal.

An event is a fixed word in snake case with fields: `log.info("delta_accepted", origin=origin)`.
Digests, entry ids, labels and keys are never logged, and nothing here formats them: logs travel
further than lists may.

A peer chooses some of the texts, and how often an event happens. So every field is cut and escaped
here, whatever its caller did. Events of one name that happen too often are counted, not written.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from node.clock import SystemClock, format_ms
from node.config import LogFormat, LogLevel

_LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}
_FIRST: Final = ("timestamp", "level", "event")

_MAX_VALUE_CHARS: Final = 500
"""Characters of one field. Errors of a peer's making quote at most some hundred of its own."""

_MAX_EXCEPTION_CHARS: Final = 8_000
"""Characters of a traceback: its end, which names the error."""

_BUDGET_BYTES: Final = 64 * 1024
"""Bytes that events of one name may fill in `_BUDGET_SECONDS`: some 250 lines. A peer can cause
about ten kinds of events, so it fills less than 1 MB a minute."""

_BUDGET_SECONDS: Final = 60.0

_BOLD: Final = "1"
_DIM: Final = "2"
_LEVEL_COLORS: Final = {
    "info": "32",
    "warning": "33",
    "error": "31",
    "critical": "31",
}

# What structlog passes from one processor to the next.
_Event = MutableMapping[str, Any]


def configure(level: LogLevel, format: LogFormat, stream: TextIO | None = None) -> None:  # noqa: A002  # named as in config.toml
    """Configure the logging of this process; may be called again.

    Warnings and errors of libraries, through `logging`, become events too, so that every line of a
    JSON stream is JSON.

    Args:
        level: the lowest level of the events that are written.
        format: how events are written; AUTO asks the stream whether it is a terminal.
        stream: where events are written; by default the current stderr.
    """
    stream = sys.stderr if stream is None else stream
    is_terminal = stream.isatty()
    console = format is LogFormat.CONSOLE or (format is LogFormat.AUTO and is_terminal)
    render: Processor = structlog.processors.JSONRenderer(default=str)
    if console:
        render = _ConsoleRenderer(with_colors=is_terminal and _wants_colors())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_timestamp,
            structlog.processors.format_exc_info,
            _cut,
            _put_first,
            _Budget(render),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward())
    # Libraries write too much below that level.
    root.setLevel(max(_LEVELS[level], logging.WARNING))


def get_logger(**fields: object) -> FilteringBoundLogger:
    """Return a logger whose events all carry these fields.

    Args:
        fields: such as `peer` or `origin`; never a digest, an entry id, a label or a key.
    """
    return cast("FilteringBoundLogger", structlog.get_logger(**fields))


class _Forward(logging.Handler):
    """Turns records of the standard library's logging into events."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get_logger().log(
                min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL),
                "library_message",
                logger=record.name,
                message=record.getMessage(),
                exc_info=record.exc_info,
            )
        except Exception:  # noqa: BLE001  # as every handler: a log line must not end the program
            self.handleError(record)


def _wants_colors() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _add_timestamp(_logger: object, _method: str, event: _Event) -> _Event:
    event["timestamp"] = format_ms(SystemClock().now_ms())
    return event


def _put_first(_logger: object, _method: str, event: _Event) -> _Event:
    ordered = {key: event.pop(key) for key in _FIRST if key in event}
    return {**ordered, **event}


def _cut(_logger: object, _method: str, event: _Event) -> _Event:
    """Make every field short; what is not a number becomes a text."""
    for key, value in event.items():
        if value is None or isinstance(value, bool | int | float):
            continue
        text = str(value)
        if key == "exception":
            event[key] = text[-_MAX_EXCEPTION_CHARS:]
        elif len(text) > _MAX_VALUE_CHARS:
            more = len(text) - _MAX_VALUE_CHARS
            event[key] = f"{text[:_MAX_VALUE_CHARS]}... ({more} more characters)"
        else:
            event[key] = text
    return event


class _Budget:
    """Renders events, as many of each name as its budget allows, and says how many it left out.

    The names are words of this program, so there is a bounded number of them.
    """

    def __init__(self, render: Processor) -> None:
        self._render = render
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}
        self._bytes: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def __call__(self, logger: object, method: str, event: _Event) -> str:
        name, timestamp = str(event.get("event", "")), event.get("timestamp", "")
        with self._lock:
            now = time.monotonic()
            lines = [
                self._say(logger, method, {"timestamp": timestamp, **told})
                for told in self._end_budgets(now)
            ]
            if self._bytes.setdefault(name, 0) >= _BUDGET_BYTES:
                self._left_out[name] = self._left_out.get(name, 0) + 1
                if not lines:
                    raise structlog.DropEvent
            else:
                lines.append(self._say(logger, method, event))
                self._began.setdefault(name, now)
                self._bytes[name] += len(lines[-1])
        return "\n".join(lines)

    def _end_budgets(self, now: float) -> list[dict[str, object]]:
        """Begin the budgets again whose time is over; return what to say of each."""
        over = [name for name, began in self._began.items() if now - began >= _BUDGET_SECONDS]
        told: list[dict[str, object]] = []
        for name in over:
            del self._began[name], self._bytes[name]
            if count := self._left_out.pop(name, 0):
                told.append(
                    {"level": "warning", "event": "events_left_out", "name": name, "count": count}
                )
        return told

    def _say(self, logger: object, method: str, event: _Event) -> str:
        return str(self._render(logger, method, event))


class _ConsoleRenderer:
    """Renders an event as one line for people; a traceback follows it.

    A peer chooses some of the texts. With control characters it could forge lines or control the
    terminal; with spaces and equals signs it could forge fields. Such values are quoted.
    """

    def __init__(self, *, with_colors: bool) -> None:
        self._with_colors = with_colors

    def __call__(self, _logger: object, _method: str, event: _Event) -> str:
        timestamp, level, name = (str(event.pop(key, "")) for key in _FIRST)
        blocks = [event.pop(key) for key in ("stack", "exception") if key in event]
        fields = [f"{self._paint(_DIM, key + '=')}{_quote(value)}" for key, value in event.items()]
        words = [
            self._paint(_DIM, timestamp),
            self._paint(_LEVEL_COLORS.get(level, _DIM), f"{level:<8}"),
            self._paint(_BOLD, _quote(name)),
            *fields,
        ]
        lines = "\n".join(map(str, blocks)).split("\n") if blocks else []
        return "\n".join([" ".join(words), *map(_escape, lines)])

    def _paint(self, color: str, text: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self._with_colors else text


def _quote(value: object) -> str:
    text = str(value)
    is_plain = text != "" and text.isprintable() and not set(text) & set(" =\"'\\")
    return text if is_plain else repr(text)


def _escape(line: str) -> str:
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in line
    )
