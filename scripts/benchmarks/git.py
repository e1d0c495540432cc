"""A list in git with signed commits, for a user who wants signatures and a history.

There is one sorted file for each first byte of the hashes. With a single file, git would have to
delta-compress and write the whole list for every change.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.processes import Usage, run
from scripts.benchmarks.shell import Shell
from scripts.benchmarks.signing import SIGNER, Signing

_ENVIRONMENT: Final = {
    # Ignore settings of the user and the system.
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
}
_SETTINGS: Final = {
    "user.name": "bench",
    "user.email": SIGNER,
    "gpg.format": "ssh",
    "init.defaultBranch": "main",
    # Background work of git belongs to the command that starts it, and must not outlive it.
    "gc.autoDetach": "false",
    "maintenance.autoDetach": "false",
}
_TO_CHANGES: Final = "sed -n -e 's/^+\\([0-9a-f]\\)/+,\\1/p' -e 's/^-\\([0-9a-f]\\)/-,\\1/p'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """A publisher's work tree, the bare repository that it pushes to, a subscriber's clone.

    Attributes:
        program: `git`.
        signing: the publisher's key.
        folder: where all three are.
    """

    program: Path
    signing: Signing
    folder: Path

    @classmethod
    def create(cls, program: Path, signing: Signing, folder: Path) -> Git:
        """Make the publisher's work tree and the bare repository, both empty."""
        folder.mkdir()
        made = cls(program=program, signing=signing, folder=folder)
        made._run("init", "-q", "--bare", made.bare)
        made._run("init", "-q", made.tree)
        made._run("-C", made.tree, "remote", "add", "origin", made.url)
        return made

    @property
    def tree(self) -> Path:
        """The publisher's work tree."""
        return self.folder / "tree"

    @property
    def bare(self) -> Path:
        """The repository that is pushed to and fetched from."""
        return self.folder / "bare.git"

    @property
    def clone(self) -> Path:
        """The subscriber's clone."""
        return self.folder / "clone"

    @property
    def url(self) -> str:
        """The URL of the bare repository: with a plain path, git would link files instead."""
        return f"file://{self.bare}"

    def write_shards(self, ordered: Path) -> None:
        """Write a list, sorted by hash, into the work tree: one file for each first byte."""
        byte, shard = "", None
        with ordered.open() as lines:
            for line in lines:
                if line[:2] != byte:
                    if shard is not None:
                        shard.close()
                    byte = line[:2]
                    shard = (self.tree / f"{byte}.csv").open("w")
                assert shard is not None  # noqa: S101  # no line starts with an empty text
                shard.write(line)
        if shard is not None:
            shard.close()

    def change_shards(self, change: Path) -> None:
        """Apply a change, lines of `+` or `-`, hash and label, to the files of the work tree."""
        by_byte: dict[str, dict[str, str | None]] = {}
        with change.open() as lines:
            for line in lines:
                op, hash_text, label = line.rstrip("\n").split(",")
                wanted = label if op == "+" else None
                by_byte.setdefault(hash_text[:2], {})[hash_text] = wanted
        for byte, changes in by_byte.items():
            shard = self.tree / f"{byte}.csv"
            rows: dict[str, str | None] = {}
            for line in shard.read_text().splitlines() if shard.exists() else ():
                hash_text, _, label = line.partition(",")
                rows[hash_text] = label
            rows |= changes
            shard.write_text(
                "".join(f"{key},{rows[key]}\n" for key in sorted(rows) if rows[key] is not None)
            )

    def publish(self) -> list[Usage]:
        """Commit the work tree with a signature, and push it."""
        key = self.signing.key.with_suffix(".pub")
        return [
            self._run("-C", self.tree, "add", "-A"),
            self._run(
                "-C", self.tree, "-c", f"user.signingKey={key}", "commit", "-q", "-S", "-m", "list"
            ),
            self._run("-C", self.tree, "push", "-q", "origin", "HEAD:main"),
        ]

    def load(self, shell: Shell, table: Path, rows: int) -> list[Usage]:
        """Clone, verify the commit, and load the list into a new table."""
        return [
            self._run("clone", "-q", "--no-checkout", self.url, self.clone),
            self._verify("HEAD"),
            self._run("-C", self.clone, "checkout", "-q"),
            shell.load(f"|cat {self.clone}/*.csv", table, rows),
        ]

    def update(self, shell: Shell, table: Path, asserted: int) -> list[Usage]:
        """Fetch the next commit, verify it, and apply what it changes to the table.

        Args:
            shell: the `sqlite3` shell.
            table: the database.
            asserted: how many entries are added or revised.
        """
        fetched = self._run("-C", self.clone, "fetch", "-q", "origin", "main")
        changes = self.folder / "changes.csv"
        diff = f"{self.program} -C {self.clone} diff --unified=0 HEAD FETCH_HEAD"
        return [
            fetched,
            self._verify("FETCH_HEAD"),
            run(["sh", "-c", f"{diff} | {_TO_CHANGES} > {changes}"], env=_ENVIRONMENT),
            shell.apply(changes, table, asserted),
            self._run("-C", self.clone, "merge", "-q", "--ff-only", "FETCH_HEAD"),
        ]

    def transferred_bytes(self) -> int:
        """Return how many bytes the clone has fetched: the size of its packs."""
        return sum(pack.stat().st_size for pack in self.clone.glob(".git/objects/pack/*.pack"))

    def _verify(self, commit: str) -> Usage:
        allowed = f"gpg.ssh.allowedSignersFile={self.signing.allowed}"
        return self._run("-C", self.clone, "-c", allowed, "verify-commit", commit)

    def _run(self, *arguments: str | Path) -> Usage:
        settings = [part for item in _SETTINGS.items() for part in ("-c", "=".join(item))]
        return run([self.program, *settings, *arguments], env=_ENVIRONMENT)
