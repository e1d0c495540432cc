"""Structured events on stderr: JSON Lines for machines, one coloured line each on a terminal.

An event is a fixed word in snake case with fields: `log.info("delta_accepted", origin=origin)`.
There is nothing here that formats digests, entry ids, labels or keys, and they are never logged:
logs travel further than lists may.
"""

from __future__ import annotations

import logging
import os
import sys
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

_BOLD: Final = "1"
_DIM: Final = "2"
_LEVEL_COLORS: Final = {
    "info": "32",
    "warning": "33",
    "error": "31",
    "critical": "31",
}

# What structlog hands from one processor to the next.
_Event = MutableMapping[str, Any]


def configure(level: LogLevel, format: LogFormat, stream: TextIO | None = None) -> None:  # noqa: A002  # named as in config.toml
    """Configure the logging of this process; may be called again.

    What libraries say through `logging` becomes events too, from warnings on, so that every line
    of a JSON stream is JSON.

    Args:
        level: from which level on events are written.
        format: how; AUTO asks the stream whether it is a terminal.
        stream: where to; by default stderr, as it is now.
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
            _put_first,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward())
    # Libraries tell stories below that.
    root.setLevel(max(_LEVELS[level], logging.WARNING))


def get_logger(**fields: object) -> FilteringBoundLogger:
    """Return a logger, whose events all carry these fields.

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


class _ConsoleRenderer:
    """Renders an event as one line for people; a traceback follows it.

    A peer chooses some of the texts. With control characters it could forge lines or drive the
    terminal, with spaces and equals signs it could forge fields: such values are quoted.
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
