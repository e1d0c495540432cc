"""What the command line prints: text for people, JSON for programs.

Rules of the text: results go to stdout, everything else to stderr; messages are lower case without
a final period; nothing that came from a peer is printed without `safe`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import click

from node.errors import CommandError

_JSON: Final = json.JSONEncoder(ensure_ascii=False)


def safe(text: str) -> str:
    """Return text with every character escaped that a terminal might obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def emit_line(text: str) -> None:
    """Print one of many lines; unlike `click.echo`, do not flush each."""
    sys.stdout.write(text + "\n")


def emit_json(value: object) -> None:
    """Print one JSON object on a line of its own."""
    emit_line(encode_json(value))


def encode_json(value: object) -> str:
    """Return JSON in which every character that a terminal might obey is escaped."""
    text = _JSON.encode(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def emit_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in aligned columns under their headers."""
    cells = [[safe(str(cell)) for cell in row] for row in rows]
    widths = [
        max(len(header), *(len(row[column]) for row in cells)) if cells else len(header)
        for column, header in enumerate(headers)
    ]
    for line in ([str(header) for header in headers], *cells):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def emit_facts(facts: Mapping[str, object], *, indent: str = "") -> None:
    """Print names and values, one pair per line."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        click.echo(f"{indent}{name.ljust(width)}  {safe(str(value))}".rstrip())


def say(message: str) -> None:
    """Tell the person something that is not a result."""
    click.echo(message, err=True)


def emit_error(
    error: BaseException, *, reason: str, hint: str, exit_code: int, as_json: bool
) -> None:
    """Print an error: what was wrong, and what to do next."""
    if as_json:
        body = {"reason": reason, "message": str(error), "hint": hint, "exit_code": exit_code}
        click.echo(encode_json({"error": body}), err=True)
        return
    click.echo(f"{click.style('error', fg='red', bold=True)}: {safe(str(error))}", err=True)
    if hint:
        click.echo(f"{click.style('hint', fg='cyan')}: {safe(hint)}", err=True)


def read_lines(path: str) -> Iterator[str]:
    """Yield the lines of a file, or of stdin for `-`, stripped; skip empty ones.

    Raises:
        CommandError: the file cannot be read, or is not UTF-8.
    """
    try:
        with click.open_file(path, encoding="utf-8-sig") as lines:
            for line in lines:
                if text := line.strip():
                    yield text
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CommandError(
            f"cannot read {path}: {why}", hint="name a text file, or - for stdin"
        ) from error
