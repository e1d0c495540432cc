"""What a user would do without this program: the `sqlite3` shell and a table keyed by the hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.processes import BenchError, Usage, run

# The same cache size as that of a node: the shell's own 2 MB would make it slower.
_CACHE: Final = "PRAGMA cache_size = -65536;\n"
_LOAD: Final = """\
CREATE TABLE h(hash TEXT PRIMARY KEY, {columns}) WITHOUT ROWID;
.mode csv
.import '{source}' h
SELECT count(*) FROM h;
"""
_FIND: Final = """\
CREATE TEMP TABLE w(hash TEXT);
.mode csv
.import '{source}' w
SELECT h.hash, h.label FROM w JOIN h USING (hash);
"""
# A line has `+` or `-`, a hash and a label. A replaced row is both removed and inserted.
_APPLY: Final = """\
CREATE TEMP TABLE d(op TEXT, hash TEXT, label TEXT);
.mode csv
.import '{source}' d
BEGIN;
DELETE FROM h WHERE hash IN (SELECT hash FROM d WHERE op = '-');
INSERT INTO h SELECT hash, label FROM d WHERE op = '+'
  ON CONFLICT (hash) DO UPDATE SET label = excluded.label;
COMMIT;
SELECT total_changes() - (SELECT count(*) FROM d);
"""
_ADD: Final = """\
.mode csv
.import '{source}' h
"""


@dataclass(frozen=True, slots=True)
class Shell:
    """The `sqlite3` shell.

    Attributes:
        program: where it is.
    """

    program: Path

    def load(
        self, source: Path | str, table: Path, rows: int, columns: tuple[str, ...] = ("label",)
    ) -> Usage:
        """Load a list into a new table that is keyed by the hash.

        Args:
            source: lines of a hash and the other columns: a file, or a command after `|`.
            table: the database to make.
            rows: how many rows there are.
            columns: the columns besides the hash.

        Raises:
            BenchError: the table has another number of rows afterwards.
        """
        declared = ", ".join(f"{column} TEXT" for column in columns)
        used = self._run(table, _LOAD.format(source=source, columns=declared))
        if int(used.output) != rows:
            raise BenchError(f".import has {used.output.strip()} rows, expected {rows}")
        return used

    def let_read(self, table: Path) -> None:
        """Let others read a table while it is written, which its default journal does not."""
        self._run(table, "PRAGMA journal_mode = WAL;\n")

    def add(self, source: Path, table: Path) -> Usage:
        """Load more rows into a table."""
        return self._run(table, _ADD.format(source=source))

    def apply(self, source: Path, table: Path, asserted: int) -> Usage:
        """Apply a change to a table.

        Args:
            source: lines of `+` or `-`, hash and label.
            table: the database.
            asserted: how many entries it adds or revises.

        Raises:
            BenchError: another number of rows has changed.
        """
        used = self._run(table, _APPLY.format(source=source))
        if int(used.output) < asserted:
            raise BenchError(f"{used.output.strip()} rows have changed, expected {asserted}")
        return used

    def find(self, wanted: Path, table: Path) -> Usage:
        """Look up all hashes of a file in a table."""
        return self._run(table, _FIND.format(source=wanted), discard_output=True)

    def version(self) -> str:
        """Return the version of SQLite that it uses."""
        return run([self.program, "--version"]).output.partition(" ")[0]

    def _run(self, table: Path, statements: str, *, discard_output: bool = False) -> Usage:
        script = table.with_suffix(".sql")
        script.write_text(_CACHE + statements)
        return run(
            [self.program, "-batch", "-bail", table], stdin=script, discard_output=discard_output
        )
