"""The high-water mark: how much of our own lists may have been released, kept outside the store.

A node has one small file, in a folder that no backup contains and that is best on another disk. It
has one record for each own list: size and root of its log, and the token of the store that raised
it. Each change writes a complete new file and renames it into place; file and folder are synced. A
process that raises the mark holds the lock on publishing, and states what the record was before.

Beside it lies an unsynced note of what is known since this machine was started: that the mark of a
list was compared with its peers, what the operator then said about the clock, and which file that
was. A copy of the two files is a different file, so the note of a restored copy is not believed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from federation.checkpoint import Checkpoint
from federation.errors import FederationError
from federation.merkle import EMPTY_ROOT
from federation.names import OrgName, Origin, parse_list_name
from federation.recovery import Mark, Obstacle
from node.config import Config
from node.errors import StoreError
from node.home import Home
from node.system import durable

_FIRST_LINE: Final = "hashfed high-water mark 1"
_RECORD: Final = re.compile(r"list (\S+) (0|[1-9][0-9]{0,18}) ([0-9a-f]{64}) ([0-9a-f]{32})")
_MAX_BYTES: Final = 16 * 1024 * 1024
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    size: int
    root_hash: bytes
    incarnation: bytes


class MarkMovedError(StoreError):
    """The mark has changed since this process read it: another one signs, or it was restored.

    Nothing was released.
    """

    reason = "MARK_MOVED"


class HighWater:
    """The mark of one node.

    Attributes:
        path: the file.
        org: the organization whose lists it is about.
    """

    def __init__(self, folder: Path, org: OrgName) -> None:
        self.path = folder / "high-water"
        self.org = org
        self._known = folder / "known"

    def create(self) -> None:
        """Make the mark of a node without lists; make its folder if it is missing.

        Raises:
            StoreError: there is one already, or it cannot be written.
        """
        with durable.disk_errors(self.path):
            durable.make_folder(self.path.parent)
            durable.write_new(self.path, self._format({}))
            durable.sync(self.path.parent)

    def load(self, origin: Origin) -> Mark | Obstacle:
        """Return the mark of a list, or why it cannot be used.

        Raises:
            StoreError: the file cannot be read.
        """
        records = self._read()
        if isinstance(records, Obstacle):
            return records
        record = records.get(origin.name)
        if record is None:
            return Obstacle.MARK_MISSING
        known = self._load_known()
        return Mark(
            checkpoint=Checkpoint(str(origin), record.size, record.root_hash),
            incarnation=record.incarnation,
            fresh=origin.name in known,
            accepted_lead_ms=known.get(origin.name, 0),
        )

    def begin(self, origin: Origin, incarnation: bytes) -> None:
        """Mark that nothing of a new list was released, unless there is a mark of it already.

        Raises:
            StoreError: the mark cannot be used or written.
        """
        records = self._read()
        if isinstance(records, Obstacle):
            raise StoreError(
                f"{self.path}: the high-water mark cannot be used ({records})",
                hint="run 'hashfed doctor'",
                reason=records,
            )
        if origin.name not in records:
            new = _Record(size=0, root_hash=EMPTY_ROOT, incarnation=incarnation)
            self._replace({**records, origin.name: new}, {**self._load_known(), origin.name: 0})

    def prepare(self, origin: Origin, old: Mark, new: Checkpoint) -> PreparedRaise:
        """Write the next mark to the disk, without putting it in place yet.

        Args:
            origin: the list.
            old: what its mark must be now.
            new: what its mark is to be.

        Raises:
            MarkMovedError: the mark is a different one.
            StoreError: it cannot be written; nothing was changed.
        """
        records = self._expect(origin, old)
        raised = replace(records[origin.name], size=new.size, root_hash=new.root_hash)
        temporary = self._write_temporary({**records, origin.name: raised})
        return PreparedRaise(self, origin, old, temporary)

    def put_in_place(self, origin: Origin, old: Mark, prepared: Path) -> None:
        """Put a prepared mark in place, on the disk, if the mark has not changed.

        Raises:
            MarkMovedError: the mark of the list is a different one.
            StoreError: it cannot be put in place.
        """
        self._expect(origin, old)
        known = self._load_known()
        with durable.disk_errors(self.path):
            durable.rename(prepared, self.path)
        self._note_known(known)

    def adopt(
        self,
        origin: Origin,
        checkpoint: Checkpoint,
        incarnation: bytes,
        *,
        accepted_lead_ms: int = 0,
    ) -> None:
        """Set a list's mark to what was found out, whatever it was, and note it as known.

        A mark file that cannot be used is kept under another name.

        Args:
            origin: the list.
            checkpoint: what its mark is to be.
            incarnation: the token of the store that has all of it.
            accepted_lead_ms: how far the clock may be ahead, if the operator has just said so.

        Raises:
            StoreError: it cannot be written.
        """
        records = self._read()
        if isinstance(records, Obstacle):
            self._put_aside(records)
            records = {}
        self._sweep()
        record = _Record(
            size=checkpoint.size, root_hash=checkpoint.root_hash, incarnation=incarnation
        )
        known = dict(self._load_known())
        known[origin.name] = accepted_lead_ms or known.get(origin.name, 0)
        if records.get(origin.name) != record:
            self._replace({**records, origin.name: record}, known)
            return
        # The mark is in place, but the process that put it there may have been killed before it
        # synced the folder. What is released next relies on it, so sync it now.
        with durable.disk_errors(self.path):
            durable.sync(self.path.parent)
        if known != self._load_known():
            self._note_known(known)

    def doubt(self, origin: Origin) -> None:
        """Forget what is known about a list: its peers have to be asked again."""
        known = dict(self._load_known())
        known.pop(origin.name, None)
        self._note_known(known)

    # --- the file -----------------------------------------------------------------------------

    def _read(self) -> Mapping[str, _Record] | Obstacle:
        with durable.disk_errors(self.path):
            try:
                with self.path.open("rb") as file:
                    data = file.read(_MAX_BYTES + 1)
            except (FileNotFoundError, NotADirectoryError):
                return Obstacle.MARK_MISSING
        return self._parse(data)

    def _parse(self, data: bytes) -> Mapping[str, _Record] | Obstacle:
        content, _, checksum = data.rpartition(b"sha256 ")
        if checksum != sha256(content).hexdigest().encode() + b"\n" or not content.isascii():
            return Obstacle.MARK_DAMAGED
        first, org, *lines = content.decode().splitlines()
        if first != _FIRST_LINE:
            return Obstacle.MARK_DAMAGED
        if org != f"org {self.org}":
            return Obstacle.MARK_FOREIGN
        records: dict[str, _Record] = {}
        for line in lines:
            found = _RECORD.fullmatch(line)
            if found is None:
                return Obstacle.MARK_DAMAGED
            name, size, root_hash, incarnation = found.groups()
            try:
                parse_list_name(name)
                Checkpoint(name, int(size), bytes.fromhex(root_hash))
            except FederationError:
                return Obstacle.MARK_DAMAGED
            records[name] = _Record(
                size=int(size),
                root_hash=bytes.fromhex(root_hash),
                incarnation=bytes.fromhex(incarnation),
            )
        return records

    def _format(self, records: Mapping[str, _Record]) -> bytes:
        lines = [_FIRST_LINE, f"org {self.org}"]
        lines += [
            f"list {name} {record.size} {record.root_hash.hex()} {record.incarnation.hex()}"
            for name, record in sorted(records.items())
        ]
        content = "".join(f"{line}\n" for line in lines).encode()
        return content + f"sha256 {sha256(content).hexdigest()}\n".encode()

    def _expect(self, origin: Origin, old: Mark) -> Mapping[str, _Record]:
        records = self._read()
        record = None if isinstance(records, Obstacle) else records.get(origin.name)
        if isinstance(records, Obstacle) or record != _Record(
            size=old.checkpoint.size,
            root_hash=old.checkpoint.root_hash,
            incarnation=old.incarnation,
        ):
            raise MarkMovedError(
                f"{self.path}: the high-water mark of {origin} was changed meanwhile",
                hint=f"nothing was released; run 'hashfed recover {origin.name}'",
            )
        return records

    def _write_temporary(self, records: Mapping[str, _Record]) -> Path:
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.next")
        with durable.disk_errors(self.path):
            durable.write_new(temporary, self._format(records))
        return temporary

    def _replace(self, records: Mapping[str, _Record], known: Mapping[str, int]) -> None:
        temporary = self._write_temporary(records)
        with durable.disk_errors(self.path):
            durable.rename(temporary, self.path)
        self._note_known(known)

    def _sweep(self) -> None:
        """Remove what killed processes had written but not put in place."""
        for leftover in self.path.parent.glob(".*.next"):
            with suppress(OSError):
                leftover.unlink()

    def _put_aside(self, why: Obstacle) -> None:
        if why is Obstacle.MARK_MISSING:
            with durable.disk_errors(self.path):
                durable.make_folder(self.path.parent)
            return
        word = why.removeprefix("MARK_").lower()
        aside = self.path.with_name(f"{self.path.name}.{word}-{secrets.token_hex(4)}")
        with durable.disk_errors(self.path):
            durable.rename(self.path, aside)

    # --- what is known since this machine was started -------------------------------------------

    def _identity(self) -> str | None:
        """Return what identifies this very file since this very start of the machine."""
        try:
            boot = _BOOT_ID.read_text(encoding="ascii").strip()
            status = self.path.stat()
        except OSError:
            return None
        return f"{boot} {status.st_dev} {status.st_ino} {status.st_ctime_ns}"

    def _load_known(self) -> Mapping[str, int]:
        """Return the lists that were compared, and how far ahead the clock may be for each."""
        identity = self._identity()
        try:
            first, *lines = self._known.read_text(encoding="ascii").splitlines()
            known = {name: int(lead) for name, lead in map(str.split, lines)}
        except (OSError, ValueError):
            return {}
        return known if first == identity else {}

    def _note_known(self, known: Mapping[str, int]) -> None:
        identity = self._identity()
        # If a crash loses it or a full disk refuses it, the peers are asked once more.
        with suppress(OSError):
            self._known.unlink(missing_ok=True)
        if identity is None:
            return
        temporary = self._known.with_name(f".known.{secrets.token_hex(8)}.next")
        with suppress(OSError):
            lines = [f"{name} {lead}" for name, lead in sorted(known.items())]
            temporary.write_text("\n".join([identity, *lines]), encoding="ascii")
            temporary.replace(self._known)


def of_node(home: Home, config: Config) -> HighWater:
    """Return the mark of a node, from where its configuration says that it is."""
    return HighWater(config.publish.mark_dir or home.mark, config.node.org)


class PreparedRaise:
    """A mark that is written but not yet in place. Either `complete` it or `cancel` it."""

    def __init__(self, mark: HighWater, origin: Origin, old: Mark, temporary: Path) -> None:
        self._mark = mark
        self._origin = origin
        self._old = old
        self._temporary = temporary

    def complete(self) -> None:
        """Put it in place, on the disk.

        Raises:
            MarkMovedError: the mark was changed meanwhile.
            StoreError: it cannot be put in place.
        """
        self._mark.put_in_place(self._origin, self._old, self._temporary)

    def cancel(self) -> None:
        """Remove it without putting it in place."""
        with suppress(OSError):
            self._temporary.unlink()
