"""Files that are damaged, cut off, or another node's: named by every command, and left alone."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.store.sqlite import sqlite3
from tests.harness.forkserver import ForkServer
from tests.harness.node import Node, assertion, digest

pytestmark = [pytest.mark.fault, pytest.mark.slow]


class Site:
    """What an operator has: a node, its backup; and what lies about: other nodes' files.

    Attributes:
        node: publishes `known`, with one entry staged.
        other: another organization's, with a list of the same name.
        twin: another node of the same organization, with other keys.
        backup: of the node, before its last delta.
        theirs: a backup of the other organization's node.
    """

    def __init__(self, folder: Path, forks: ForkServer) -> None:
        folder.mkdir()
        self.folder = folder
        self.node, self.other = (
            Node(folder, f"{name}.example", forks) for name in ("hotline", "ngo")
        )
        (folder / "twin").mkdir()
        self.twin = Node(folder / "twin", "hotline.example", forks)
        self.backup, self.theirs = folder / "backup.db", folder / "theirs.db"
        for node in (self.node, self.other, self.twin):
            node.create("known")
            node.publish("known", 1)
        self.node("backup", self.backup)
        self.other("backup", self.theirs)
        self.node.publish("known", 2)
        self.node.stage("known", [assertion(3)])
        self.other.stage("known", [assertion(4)])

    def copy(self, folder: Path) -> Site:
        """Return the same elsewhere."""
        shutil.copytree(self.folder, folder)
        made = copy.copy(self)
        made.folder = folder
        made.backup, made.theirs = folder / self.backup.name, folder / self.theirs.name
        for name in ("node", "other", "twin"):
            node = copy.copy(getattr(self, name))
            node.home = folder / node.home.relative_to(self.folder)
            node._log = folder / f"{name}.log"
            setattr(made, name, node)
        return made


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> Site:
    return Site(tmp_path_factory.mktemp("bad") / "site", forks)


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Iterator[Site]:
    made = template.copy(tmp_path / "site")
    yield made
    made.node.kill()


@dataclass(frozen=True)
class Refusal:
    """How a command ends: with which code, reason, and part of its message."""

    code: int
    reason: str
    says: str


COMMANDS: Mapping[str, tuple[str, ...]] = {
    "status": ("status",),
    "lookup": ("lookup", f"sha256:{digest(1)}"),
    "fsck": ("fsck",),
    "sync": ("sync",),
    "serve": ("serve", "--log-format", "json"),
    "publish": ("publish", "known"),
}
ALL = tuple(COMMANDS)


@dataclass(frozen=True)
class Harm:
    """Something that an operator finds.

    Attributes:
        do: does it; returns the files that are to stay as they are.
        refusals: the commands that refuse, and how; the others do what they always do.
        finding: the check of `doctor` that fails.
    """

    do: Callable[[Site], list[Path]]
    refusals: Mapping[str, Refusal]
    finding: str


def _write(name: str, change: Callable[[bytes], bytes]) -> Callable[[Site], list[Path]]:
    def do(site: Site) -> list[Path]:
        path = site.node.home / name
        path.write_bytes(change(path.read_bytes()))
        return [path]

    return do


def _take(*names: str) -> Callable[[Site], list[Path]]:
    """Put another node's files in place."""

    def do(site: Site) -> list[Path]:
        paths = [site.node.home / name for name in names]
        for path, name in zip(paths, names, strict=True):
            shutil.copy2(site.other.home / name, path)
        return paths

    return do


def _put_twin_in_place(site: Site) -> list[Path]:
    shutil.copy2(site.twin.home / "store.db", site.node.home / "store.db")
    return []


def _put_backup_in_place(site: Site) -> list[Path]:
    shutil.copy2(site.backup, site.node.home / "store.db")
    return []


def _another_database(site: Site) -> list[Path]:
    path = site.node.home / "store.db"
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    return [path]


def _cut(part: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * part)]


def _no_store(says: str) -> Mapping[str, Refusal]:
    # `fsck` prints what it found, and counts it in the error.
    counted = Refusal(12, "DAMAGED", "1 differences from what was signed")
    return {**dict.fromkeys(ALL, Refusal(12, "DAMAGED", says)), "fsck": counted}


_NOT_OURS = dict.fromkeys(ALL, Refusal(12, "FOREIGN", "is the store of ngo.example"))
_CONFIGURED = ("status", "sync", "serve", "publish")


def _no_tls(says: str) -> Mapping[str, Refusal]:
    return dict.fromkeys(("sync", "serve"), Refusal(10, "CONFIG", says))


HARMS: dict[str, Harm] = {
    "a store of no bytes": Harm(
        _write("store.db", lambda _data: b""), _no_store("is not a hashfed store"), "store"
    ),
    "a store that is text": Harm(
        _write("store.db", lambda _data: b"hello\n" * 999), _no_store("not a database"), "store"
    ),
    "half a store": Harm(_write("store.db", _cut(0.5)), _no_store("malformed"), "store"),
    "a store without its last page": Harm(
        _write("store.db", lambda data: data[:-4096]), _no_store("malformed"), "store"
    ),
    "another organization's store": Harm(_take("store.db"), _NOT_OURS, "organization"),
    "another database": Harm(_another_database, _no_store("is not a hashfed store"), "store"),
    "an older store of this node": Harm(
        _put_backup_in_place,
        {
            "publish": Refusal(
                15, "BEHIND_MARK", "2 deltas of it were released, this node has only 1"
            )
        },
        "list hotline.example/known",
    ),
    "a store of the same name with other keys": Harm(
        _put_twin_in_place,
        {
            **_no_tls("TLS certificate is not one of hotline.example"),
            "publish": Refusal(10, "CONFIG", "is not one of hotline.example"),
        },
        "role keys",
    ),
    "another organization's mark": Harm(
        _take("mark/high-water"),
        {"publish": Refusal(15, "MARK_FOREIGN", "another organization")},
        "high-water mark",
    ),
    "half a mark": Harm(
        _write("mark/high-water", _cut(0.5)),
        {"publish": Refusal(15, "MARK_DAMAGED", "is damaged")},
        "high-water mark",
    ),
    "half of what is staged": Harm(
        _write("staging/known.staged", _cut(0.5)),
        {"publish": Refusal(12, "DAMAGED", "known.staged")},
        "staged changes of known",
    ),
    "text in place of what is staged": Harm(
        _write("staging/known.staged", lambda _data: b"hello\n" * 99),
        {"publish": Refusal(12, "DAMAGED", "known.staged")},
        "staged changes of known",
    ),
    "what another organization has staged": Harm(
        _take("staging/known.staged"),
        {"publish": Refusal(12, "FOREIGN", "staged for ngo.example/known")},
        "staged changes of known",
    ),
    "half a configuration": Harm(
        _write("config.toml", lambda data: data[: data.index(b"listen = ") + 12]),
        dict.fromkeys(_CONFIGURED, Refusal(10, "CONFIG", "config.toml is not valid TOML")),
        "configuration",
    ),
    "a configuration of no bytes": Harm(
        _write("config.toml", lambda _data: b""),
        dict.fromkeys(_CONFIGURED, Refusal(10, "CONFIG", "is not set")),
        "configuration",
    ),
    "half a publisher key": Harm(
        _write("keys/publisher.key", _cut(0.5)),
        {"publish": Refusal(10, "CONFIG", "publisher.key is not a private key")},
        "publisher key",
    ),
    "another organization's log key": Harm(
        _take("keys/log.key"),
        {"publish": Refusal(10, "CONFIG", "the log key")},
        "role keys",
    ),
    "half a TLS key": Harm(
        _write("keys/tls.key", _cut(0.5)),
        _no_tls("tls.key is not an unencrypted private key"),
        "TLS key",
    ),
    "half a certificate": Harm(
        _write("keys/tls.crt", _cut(0.5)),
        _no_tls("tls.crt is not a TLS certificate"),
        "TLS certificate",
    ),
    "another organization's certificate": Harm(
        _take("keys/tls.crt"),
        _no_tls("does not belong to the key"),
        "TLS files",
    ),
    "another organization's certificate and key": Harm(
        _take("keys/tls.crt", "keys/tls.key"),
        _no_tls("TLS certificate is not one of hotline.example"),
        "TLS files",
    ),
}


@pytest.mark.parametrize("name", HARMS)
def test_each_command_names_what_is_wrong_and_leaves_it(site: Site, name: str) -> None:
    harm, node = HARMS[name], site.node
    kept = {path: path.read_bytes() for path in harm.do(site)}

    def check() -> None:
        assert {path: path.read_bytes() for path in kept} == kept

    for command, args in COMMANDS.items():
        refusal = harm.refusals.get(command)
        if refusal is not None:
            error = node.error(*args, code=refusal.code)
            assert (error["reason"], refusal.says in error["message"]) == (refusal.reason, True), (
                command,
                error,
            )
            assert error["hint"], (command, error)
            check()
        elif command == "serve":
            node.serve()
            assert node.stop() == 0
        else:
            node(*args)
    findings = node("doctor", "--json", code=1).json()["findings"]
    failed = {finding["check"]: finding for finding in findings if not finding["ok"]}
    assert harm.finding in failed, failed
    assert failed[harm.finding]["hint"], failed
    check()
    # Whatever lies in the store's place: a backup replaces it and keeps it.
    store = node.home / "store.db"
    if store in kept:
        restored = node("restore", site.backup, "--json").json()
        assert Path(restored["replaced"]).read_bytes() == kept[store]
        assert node("lookup", digest(1)).code == 0


@pytest.mark.parametrize(
    ("what", "code", "reason", "says"),
    [
        ("half", 12, "DAMAGED", "backup.db"),
        ("no bytes", 12, "DAMAGED", "backup.db"),
        ("text", 12, "DAMAGED", "backup.db"),
        ("theirs", 12, "FOREIGN", "ngo.example"),
        ("a bit", 12, "DAMAGED", "the backup is damaged"),
        ("nothing", 2, "USAGE", "backup.db"),
    ],
)
def test_a_file_that_is_no_backup_of_this_node_replaces_nothing(
    site: Site, what: str, code: int, reason: str, says: str
) -> None:
    node, backup = site.node, site.backup
    data = backup.read_bytes()
    match what:
        case "half":
            data = data[: len(data) // 2]
        case "no bytes":
            data = b""
        case "text":
            data = b"hello\n" * 999
        case "theirs":
            data = site.theirs.read_bytes()
        case "a bit":
            at = data.rindex(bytes.fromhex(digest(1)))
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    backup.write_bytes(data)
    if what == "nothing":
        backup.unlink()
    store = (node.home / "store.db").read_bytes()
    names = sorted(path.name for path in node.home.iterdir())
    error = node.error("restore", backup, code=code)
    assert (error["reason"], says in error["message"]) == (reason, True), error
    assert error["hint"]
    assert ".restoring" not in error["message"]
    assert (node.home / "store.db").read_bytes() == store
    assert what == "nothing" or backup.read_bytes() == data
    assert sorted(path.name for path in node.home.iterdir() if path.suffix != ".lock") == [
        name for name in names if not name.endswith(".lock")
    ]


def test_an_index_that_says_what_cannot_be_is_called_damage_by_who_reads_it(site: Site) -> None:
    node = site.node
    connection = sqlite3.connect(node.home / "store.db")
    connection.execute("UPDATE posting SET op = 9")
    connection.commit()
    connection.close()
    changes = node.home.parent / "changes.jsonl"
    changes.write_text(assertion(1, "B2"))

    for command in (("import", "known", changes), ("show", "known", f"sha256:{digest(1)}")):
        error = node.error(*command, code=12)
        assert (error["reason"], error["hint"]) == ("DAMAGED", "run 'hashfed fsck'")
    assert node.error("fsck", code=12)["reason"] == "DAMAGED"


def test_what_nobody_foresaw_is_told_without_a_traceback() -> None:
    text = (
        "import sys\n"
        "from node.cli import main\n"
        "def fail(**_options): raise LookupError('of all things')\n"
        "main.cli.main = fail\n"
        "main.main()\n"
    )

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *flags, "-c", text, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )

    told = run()
    assert (told.returncode, told.stdout) == (70, "")
    error = json.loads(told.stderr)["error"]
    assert error["reason"] == "UNFORESEEN"
    assert error["message"] == "LookupError in fail, <string> line 3: of all things"
    assert "fsck" in error["hint"]
    assert "Traceback" in run("-X", "dev").stderr
