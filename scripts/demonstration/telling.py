"""What the person who watches sees: chapters, commands as they are run, what they print, claims."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable
from typing import Final

_WIDTH: Final = 92
_BOLD: Final = "1"
_DIM: Final = "2"
_GREEN: Final = "32"
_RED: Final = "31"
_CYAN: Final = "36"


class DemoError(Exception):
    """The demonstration cannot go on; the message is for the person who started it."""


class ClaimError(DemoError):
    """Something that the demonstration claims is not so."""


class Teller:
    """Tells the story on stdout.

    Attributes:
        claims: what was shown to be so, in order.
    """

    def __init__(self, *, pause: bool) -> None:
        """Start telling.

        Args:
            pause: wait for Enter before each chapter, if a person sits there.
        """
        is_terminal = sys.stdout.isatty()
        self.claims: list[str] = []
        self._pause = pause and is_terminal and sys.stdin.isatty()
        self._colors = (
            is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )
        self._chapters = 0

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        if self._pause and self._chapters:
            input(self._paint(_DIM, "\n   (Enter goes on) "))
        self._chapters += 1
        self._print(f"\n{self._paint(_BOLD, f'{self._chapters}. {title}')}")

    def say(self, text: str) -> None:
        """Tell something."""
        self._print(textwrap.fill(text, _WIDTH, initial_indent="   ", subsequent_indent="   "))

    def command(self, line: str) -> None:
        """Show a command that is run."""
        self._print(f"   {self._paint(_CYAN, '$ ' + line)}")

    def output(self, lines: Iterable[str], most: int = 40) -> None:
        """Show what a command printed."""
        shown = list(lines)
        for line in shown[:most]:
            self._print(f"     {self._paint(_DIM, line)}")
        if len(shown) > most:
            self._print(f"     {self._paint(_DIM, f'... {len(shown) - most} more lines')}")

    def claim(self, text: str, *, holds: bool, otherwise: str = "") -> None:
        """Say that something is so.

        Raises:
            ClaimError: it is not.
        """
        if not holds:
            self._print(f"   {self._paint(_RED, 'FAILED')} {text}")
            raise ClaimError(f"not so: {text}" + (f" ({otherwise})" if otherwise else ""))
        self.claims.append(text)
        self._print(f"   {self._paint(_GREEN, 'ok')} {text}")

    def close(self, seconds: float) -> None:
        """End the story with what was shown."""
        self._print(f"\n{self._paint(_BOLD, 'What was shown')}")
        for text in self.claims:
            self._print(f"   {self._paint(_GREEN, 'ok')} {text}")
        self._print(f"\n   {len(self.claims)} claims hold, {seconds:.1f} s")

    def _paint(self, color: str, text: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self._colors else text

    @staticmethod
    def _print(text: str) -> None:
        # At once, also into a pipe: somebody watches.
        print(text, flush=True)
