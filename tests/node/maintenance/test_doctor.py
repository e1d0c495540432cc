"""What `maintenance.doctor` promises: what would keep a node from working is found and named."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from federation import limits, wire
from federation.follow import FollowState
from federation.names import OrgName, Origin, parse_org
from federation.trust.orgroot import PinnedRoot
from node.address import Address
from node.admin import lists, peers
from node.config import Config, NodeConfig, render_initial
from node.home import Home
from node.identity import certificate, create
from node.identity.invitation import Invitation
from node.ingest import deltas
from node.maintenance.doctor import Finding, examine
from node.store.connection import Store
from tests.federation.worlds import pin_root
from tests.node.support.own_list import TickingClock

ORG = parse_org("hotline.example")
DAY_MS = 24 * 60 * 60 * 1000


class FrozenClock:
    """A clock that stands still."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms


class Node:
    """A whole node's folder, as `init` makes it."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.clock: TickingClock | FrozenClock = TickingClock()
        folder.mkdir(mode=0o700)
        keys = create.create_keys(self.home, ORG, self.clock.now_ms())
        envelope = create.create_org_root(
            ORG,
            root=keys.root,
            publisher=keys.publisher,
            log=keys.log,
            certificate_sha256=certificate.certificate_sha256(keys.certificate),
            now_ms=self.clock.now_ms(),
        )
        self.root: PinnedRoot = wire.open_org_root(envelope)
        self.store = Store.create(self.home.store, self.clock)
        peers.create_node(self.store, self.root)
        address = Address("127.0.0.1", 7443)
        config = Config(node=NodeConfig(org=ORG, listen=address, advertise=address))
        self.home.config.write_text(render_initial(config))
        self.home.root_key.unlink()

    def close(self) -> None:
        self.store.close()

    def examine(self, times: Mapping[OrgName, int] | None = None) -> list[Finding]:
        return list(
            examine(
                self.home, {}, self.clock, ask_times=lambda _store: {} if times is None else times
            )
        )

    def failed(self) -> list[Finding]:
        return [finding for finding in self.examine() if not finding.ok]

    def befriend(self, org: str, address: str) -> None:
        invitation = Invitation(root=pin_root(org), address=address, certificate=f"of {org}")
        peers.add_peer(self.store, invitation, org.encode().ljust(32))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "node")
    yield made
    made.close()


def test_nothing_is_wrong_with_a_new_node(node: Node) -> None:
    findings = node.examine()
    assert [finding for finding in findings if not finding.ok] == []
    assert [finding.check for finding in findings] == [
        "configuration",
        "publisher key",
        "log key",
        "root key",
        "TLS key",
        "TLS certificate",
        "SQLite",
        "file system",
        "disk",
        "store",
        "organization",
        "role keys",
        "TLS files",
    ]


def _swap_keys(node: Node) -> None:
    text = node.home.log_key.read_text()
    node.home.log_key.write_text(node.home.publisher_key.read_text())
    node.home.publisher_key.write_text(text)


def _truncate(path: str) -> Callable[[Node], None]:
    return lambda node: getattr(node.home, path).write_text("")


def _expose(path: str) -> Callable[[Node], None]:
    return lambda node: getattr(node.home, path).chmod(0o644)


def _rename(node: Node) -> None:
    text = node.home.config.read_text()
    node.home.config.write_text(text.replace("hotline.example", "other.example"))


def _remove_store(node: Node) -> None:
    node.home.store.unlink()


def _damage_root(node: Node) -> None:
    node.store.connection.execute("UPDATE org SET root = x'00'")


def _wait(days: int) -> Callable[[Node], None]:
    def wait(node: Node) -> None:
        node.clock._now_ms += days * DAY_MS

    return wait


HARMS: dict[str, tuple[Callable[[Node], None], str]] = {
    "empty configuration": (_truncate("config"), "configuration"),
    "configuration of another": (_rename, "organization"),
    "empty key": (_truncate("publisher_key"), "publisher key"),
    "key for all to read": (_expose("log_key"), "log key"),
    "TLS key for all to read": (_expose("tls_key"), "TLS key"),
    "keys swapped": (_swap_keys, "role keys"),
    "empty certificate": (_truncate("tls_certificate"), "TLS certificate"),
    "certificate ended": (_wait(certificate.CERTIFICATE_DAYS), "TLS certificate"),
    "no store": (_remove_store, "store"),
    "damaged root": (_damage_root, "organization"),
}


@pytest.mark.parametrize("harm", list(HARMS))
def test_what_is_wrong_is_found(node: Node, harm: str) -> None:
    do_harm, check = HARMS[harm]
    do_harm(node)
    found = [finding for finding in node.failed() if finding.check == check]
    assert len(found) == 1
    assert found[0].detail


def test_a_certificate_that_ends_soon_is_said_before_it_is_too_late(node: Node) -> None:
    _wait(certificate.CERTIFICATE_DAYS - 20)(node)
    (found,) = [finding for finding in node.examine() if finding.check == "TLS certificate"]
    assert found.ok
    assert "expires soon" in found.hint


def test_a_root_key_beside_the_node_is_looked_at_too(node: Node) -> None:
    node.home.root_key.write_text("no key")
    node.home.root_key.chmod(0o600)
    assert [finding.check for finding in node.failed()] == ["root key"]


def test_a_peer_that_does_not_answer_is_told_from_one_that_does(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        node.befriend("ngo.example", f"127.0.0.1:{port}")
        with socket.create_server(("127.0.0.1", 0)) as closed:
            free = closed.getsockname()[1]
        node.befriend("platform.example", f"127.0.0.1:{free}")
        assert [finding.check for finding in node.failed()] == ["peer platform.example"]


@pytest.mark.parametrize(
    ("lead_ms", "ok", "detail"),
    [
        (0, True, "0 s"),
        (-limits.MAX_CLOCK_SKEW_MS, True, "300 s behind"),
        (limits.MAX_CLOCK_SKEW_MS + 60_000, False, "360 s ahead of"),
        (-limits.MAX_CLOCK_SKEW_MS - 60_000, False, "360 s behind"),
    ],
)
def test_a_clock_that_differs_from_the_peers_is_found(
    node: Node, lead_ms: int, ok: bool, detail: str
) -> None:
    assert "clock" not in {finding.check for finding in node.examine()}
    node.befriend("ngo.example", "127.0.0.1:1")
    # As it will be read when it is compared.
    now_ms = node.clock._now_ms
    clock = FrozenClock(now_ms)
    node.clock = clock
    (found,) = [
        finding
        for finding in node.examine({parse_org("ngo.example"): now_ms - lead_ms})
        if finding.check == "clock"
    ]
    assert (found.ok, bool(found.hint)) == (ok, not ok)
    assert detail in found.detail
    (silent,) = [finding for finding in node.examine() if finding.check == "clock"]
    assert silent.ok


@pytest.mark.parametrize("address", ["[::1]:1", "no.such.host.invalid:7443"])
def test_an_address_of_any_form_is_tried(node: Node, address: str) -> None:
    node.befriend("ngo.example", address)
    (found,) = node.failed()
    assert address in found.detail
    assert found.hint


@pytest.mark.parametrize("state", list(FollowState))
def test_a_list_in_trouble_is_named_with_what_is_wrong(node: Node, state: FollowState) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        node.befriend("ngo.example", f"127.0.0.1:{listening.getsockname()[1]}")
        origin = Origin.parse("ngo.example/main")
        lists.follow(node.store, origin, None)
        deltas.record_follow_state(
            node.store, origin, state, clock=node.clock, detail="what is wrong"
        )
        (found,) = [finding for finding in node.examine() if finding.check == f"list {origin}"]
    fine = {FollowState.OWN, FollowState.CATCHING_UP, FollowState.CURRENT, FollowState.STOPPED}
    assert found.ok is (state in fine)
    assert found.hint == ("" if found.ok else "what is wrong")
    assert state in found.detail
