"""Lists with other hashes than a single SHA-256, as real lists have them, and one real list."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import md5, sha1, sha256
from pathlib import Path
from typing import Final

from scripts.benchmarks.counting import counting
from scripts.benchmarks.lists import digest, label, sort_lines
from scripts.benchmarks.loading import append_rows
from scripts.benchmarks.nodes import Coalition
from scripts.benchmarks.plan import Plan, Stage
from scripts.benchmarks.results import Book, short
from scripts.benchmarks.tables import rate, ratio, section, table

REAL_LIST: Final = (
    Path(__file__).parents[3] / "shared" / "data" / "eset-malware-ioc" / "replay.jsonl.gz"
)
"""The history of one organization's published list of malware hashes, change by change."""

REAL: Final = "real"
SINGLE: Final = "sha256"

_PHOTODNA_BYTES: Final = 144


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The kind of the entries of a list.

    Attributes:
        title: its name for readers.
        width: the size of the hashes of an entry in bytes.
        change: the line of `hashfed import` for the entry with a number.
        header: the line before those lines, if any.
        rows: the lines of the `sqlite3` shell for it: hash, label, and the id if it has one.
        columns: the columns of these lines besides the hash.
    """

    title: str
    width: int
    change: Callable[[int], str]
    rows: Callable[[int], list[str]]
    header: str = ""
    columns: tuple[str, ...] = ("label",)


def _csv_kind(title: str, type_name: str, width: int, text: Callable[[int], str]) -> Kind:
    def row(number: int) -> str:
        return f"{text(number)},{label(digest(number))}"

    return Kind(
        title=title,
        width=width,
        header="type,digest,label",
        change=lambda number: f"{type_name},{row(number)}",
        rows=lambda number: [row(number)],
    )


def _triple(number: int) -> dict[str, str]:
    content = b"hashfed benchmark %d" % number
    return {
        "md5": md5(content, usedforsecurity=False).hexdigest(),
        "sha1": sha1(content, usedforsecurity=False).hexdigest(),
        "sha256": sha256(content).hexdigest(),
    }


def _triple_change(number: int) -> str:
    fingerprints = _triple(number)
    labels = [label(fingerprints["sha256"])]
    # The id is the owner's own, such as that of a case or of a file in a database.
    entry = f"item-{number:08}"
    return json.dumps({"op": "assert", "id": entry, "fingerprints": fingerprints, "labels": labels})


def _triple_rows(number: int) -> list[str]:
    fingerprints = _triple(number)
    name = label(fingerprints["sha256"])
    return [f"{text},item-{number:08},{name}" for text in fingerprints.values()]


def _photodna(number: int) -> str:
    parts = (sha256(b"%d %d" % (part, number)).digest() for part in range(5))
    return base64.b64encode(b"".join(parts)[:_PHOTODNA_BYTES]).decode()


KINDS: Final = {
    SINGLE: _csv_kind("single SHA-256", "sha256", 32, digest),
    "triples": Kind(
        title="MD5 + SHA-1 + SHA-256, own ids",
        width=16 + 20 + 32,
        change=_triple_change,
        rows=_triple_rows,
        columns=("id", "label"),
    ),
    "pdq": _csv_kind("PDQ, 32 bytes", "pdq", 32, digest),
    "photodna": _csv_kind("PhotoDNA, 144 bytes", "photodna", _PHOTODNA_BYTES, _photodna),
}


# --- measuring --------------------------------------------------------------------------------


def measure(stage: Stage, kind: Kind) -> None:
    """Measure a list of one kind, from the owner's file to a subscriber."""
    count = stage.plan.kind_size
    changes, plain = stage.folder / "changes", stage.folder / "plain.csv"
    unsorted = stage.folder / "unsorted.csv"
    rows = 0
    with changes.open("w") as changes_file, unsorted.open("w") as plain_file:
        changes_file.write(f"{kind.header}\n" if kind.header else "")
        for number in range(count):
            changes_file.write(f"{kind.change(number)}\n")
            lines = kind.rows(number)
            plain_file.writelines(f"{line}\n" for line in lines)
            rows += len(lines)
    sort_lines(unsorted, plain)
    coalition = stage.make_nodes()
    stage.results.put("published", count / coalition.publish([changes]))
    _receive(stage, coalition, count)
    _load_plain(stage, plain, kind.columns, rows, count)
    append_rows(stage, count, kind.width)


def measure_real(stage: Stage) -> None:
    """Measure the real list: every change is one delta, and a new subscriber fetches them all."""
    coalition = stage.make_nodes()
    live: dict[str, tuple[str, dict[str, str]]] = {}
    files = []
    for number, change in enumerate(_read_real(stage.plan.replayed)):
        files.append(stage.folder / f"{number}.jsonl")
        with files[-1].open("w") as file:
            file.writelines(f"{line}\n" for line in _replay(change, live))
    seconds = coalition.publish(files)
    count = len(live)
    stage.results.put("entries", count)
    stage.results.put("deltas", len(files))
    stage.results.put("published", count / seconds)
    _receive(stage, coalition, count)
    plain, unsorted = stage.folder / "plain.csv", stage.folder / "unsorted.csv"
    # A file can be listed under two labels. In a table that is keyed by the hash, that is one row.
    rows = {
        text: f"{text},{entry},{name}\n"
        for entry, (name, digests) in live.items()
        for text in digests.values()
    }
    unsorted.write_text("".join(rows.values()))
    sort_lines(unsorted, plain)
    _load_plain(stage, plain, ("id", "label"), len(rows), count)
    append_rows(stage, count, KINDS["triples"].width)


def _receive(stage: Stage, coalition: Coalition, count: int) -> None:
    """Measure a first sync, and another one through a counter of bytes."""
    subscriber = coalition.join("subscriber")
    with coalition.publisher.serving():
        used = subscriber.run("sync", "--json")
        accepted_s = json.loads(used.output)["seconds"]
        stage.results.put_usage("sync", used, count)
        stage.results.put("sync.accept", count / accepted_s)
        coalition.check_complete(subscriber, count)
        with counting(coalition.publisher.port) as counter:
            counted = coalition.join("counted", through=counter.port)
            counted.run("sync")
            sent = counter.take()
            # The second sync brings nothing, so it shows what any contact costs.
            counted.run("sync")
            idle = counter.take()
            coalition.check_complete(counted, count)
    stage.results.put("wire", (sent - idle) / count)
    stage.results.put("wire.idle", idle)
    for who, party in (("publisher", coalition.publisher), ("subscriber", subscriber)):
        stage.results.put(f"{who}.bytes", coalition.database_bytes(party) / count)


def _load_plain(stage: Stage, plain: Path, columns: tuple[str, ...], rows: int, count: int) -> None:
    loaded = stage.folder / "plain.db"
    used = stage.tools.shell.load(plain, loaded, rows, columns)
    stage.results.put_usage("import", used, count)
    stage.results.put("import.bytes", loaded.stat().st_size / count)
    stage.results.put("csv.bytes", plain.stat().st_size / count)


def _read_real(most: int) -> Iterator[dict[str, list[tuple[str, dict[str, str]]]]]:
    with gzip.open(REAL_LIST, "rt", encoding="utf-8") as lines:
        for line, _ in zip(lines, range(most), strict=False):
            yield json.loads(line)


def _replay(
    change: dict[str, list[tuple[str, dict[str, str]]]], live: dict[str, tuple[str, dict[str, str]]]
) -> Iterator[str]:
    """Yield the lines of a change, and keep what is in force after it."""
    for name, digests in change["retract"]:
        entry = _real_id(name, digests)
        del live[entry]
        yield json.dumps({"op": "retract", "id": entry, "cause": "withdrawn"})
    for name, digests in change["assert"]:
        entry = _real_id(name, digests)
        live[entry] = name, digests
        yield json.dumps({"op": "assert", "id": entry, "fingerprints": digests, "labels": [name]})


def _real_id(name: str, digests: dict[str, str]) -> str:
    # The hash alone is not enough: an item under two labels is two entries of that list.
    return f"{name}/{digests.get('sha256') or digests.get('sha1') or digests['md5']}"


# --- telling ----------------------------------------------------------------------------------


def render(book: Book, plan: Plan) -> list[str]:
    """Return the table on kinds of hashes."""
    rows = []
    for name in (*plan.kinds, REAL):
        results = book.of(name)
        if not results.has("sync.accept", "import"):
            continue
        if name == REAL:
            entries, deltas = (short(results.middle(what)) for what in ("entries", "deltas"))
            title = f"a real list: {entries} entries in {deltas} deltas"
        else:
            title = KINDS[name].title
        numbers = ("wire", "csv.bytes", "subscriber.bytes", "import.bytes")
        rows.append(
            (
                title,
                *(rate(results, what) for what in ("published", "sync.accept", "import", "floor")),
                ratio(results, "sync.accept", "import"),
                ratio(results, "sync.accept", "floor"),
                *(f"{results.middle(what):.1f}" for what in numbers),
            )
        )
    return section(
        f"Other hashes, {short(plan.kind_size)} entries each",
        table(
            (
                "entries of",
                "import and publish, entries/s",
                "sync, entries/s",
                "`.import` sorted, entries/s",
                "append floor, entries/s",
                "sync / `.import` sorted",
                "sync / floor",
                "on the wire, bytes an entry",
                "as CSV",
                "database of the subscriber",
                "database of `.import`",
            ),
            rows,
        ),
    )
