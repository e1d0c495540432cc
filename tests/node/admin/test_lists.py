"""What `node.admin.lists` promises: whom a node knows, what it owns, what it follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from federation import limits
from federation.errors import LimitError, MalformedError
from federation.follow import FollowState
from federation.names import Origin, parse_org
from federation.trust.charter import Audience
from federation.trust.orgroot import PinnedRoot, Role
from node.admin import lists, peers
from node.errors import CommandError, ConfigError
from node.identity.invitation import Invitation
from node.publish.high_water import HighWater
from node.store import follow_state
from node.store import lists as list_store
from node.store import orgs as org_store
from node.store.connection import Store
from node.store.lists import ListRecord
from tests.federation.worlds import T0, pin_root, role_key, signing_key
from tests.node.support.own_list import TickingClock

ORG = "hotline.example"
NOBODY = Audience(all_peers=False, orgs=())
EVERYBODY = Audience(all_peers=True, orgs=())
FOREIGN = Origin.parse("platform.example/main")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.create(tmp_path / "store.db", TickingClock())
    peers.create_node(made, pin_root(ORG))
    mark_of(made).create()
    yield made
    made.close()


def mark_of(store: Store) -> HighWater:
    return HighWater(store.path.parent / "mark", parse_org(ORG))


def invitation(org: str = "platform.example", root: PinnedRoot | None = None) -> Invitation:
    return Invitation(
        root=root or pin_root(org), address=f"node.{org}:7443", certificate=f"certificate of {org}"
    )


def digest(org: str) -> bytes:
    return org.encode().ljust(32, b"\0")


def befriend(store: Store, org: str = "platform.example") -> None:
    assert peers.add_peer(store, invitation(org), digest(org))


def create(store: Store, name: str = "known", audience: Audience = NOBODY) -> ListRecord:
    key = role_key(ORG, Role.PUBLISHER)
    origin = lists.create_list(store, name, audience, key, now_ms=T0, mark=mark_of(store))
    return lists.find_list(store, str(origin))


def widen(store: Store, record: ListRecord, audience: Audience) -> int:
    key = role_key(ORG, Role.PUBLISHER)
    return lists.change_audience(store, record, audience, key, now_ms=T0)


def audience_of(store: Store, name: str = "known") -> Audience:
    charter = lists.find_list(store, name).open_charter()
    assert charter is not None
    return charter.audience


# --- the node and its peers -------------------------------------------------------------------


def test_a_node_knows_whose_it_is(store: Store, tmp_path: Path) -> None:
    assert org_store.own_root(store).hash == pin_root(ORG).hash
    nobodys = Store.create(tmp_path / "other.db", TickingClock())
    with pytest.raises(CommandError, match="has no organization"):
        org_store.own_root(nobodys)
    nobodys.close()


def test_a_peer_that_is_added_again_changes_nothing_and_one_that_has_moved_is_found(
    store: Store,
) -> None:
    befriend(store)
    version = store.version
    assert not peers.add_peer(store, invitation(), digest("platform.example"))
    assert store.version == version
    moved = replace(invitation(), address="new.platform.example:7443")
    assert peers.add_peer(store, moved, digest("platform.example"))
    assert peers.load_peer(store, "platform.example").address == moved.address


def test_another_root_of_a_pinned_organization_is_never_taken(store: Store) -> None:
    befriend(store)
    real = pin_root("platform.example")
    other = invitation(root=replace(real, hash=bytes(32)))
    before = (store.version, peers.load_peer(store, "platform.example"))
    with pytest.raises(CommandError, match="another root is pinned"):
        peers.add_peer(store, other, digest("stolen"))
    assert (store.version, peers.load_peer(store, "platform.example")) == before
    assert org_store.load_root(store.connection, "platform.example") == real


def test_the_invitation_of_this_node_itself_is_refused(store: Store) -> None:
    with pytest.raises(CommandError, match=r"invitation of hotline\.example itself"):
        peers.add_peer(store, invitation(ORG), digest(ORG))


def test_a_removed_peer_is_unknown_and_its_root_stays_pinned(store: Store) -> None:
    befriend(store)
    peers.remove_peer(store, "platform.example")
    with pytest.raises(CommandError, match="is not a peer"):
        peers.load_peer(store, "platform.example")
    with pytest.raises(CommandError, match="is not a peer"):
        peers.remove_peer(store, "platform.example")
    assert org_store.load_root(store.connection, "platform.example") is not None
    befriend(store)


# --- lists of our own -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all-peers", EVERYBODY),
        ("", NOBODY),
        (" , ", NOBODY),
        ("b.example, a.example,b.example", ("a.example", "b.example")),
    ],
)
def test_an_audience_is_read_sorted_and_distinct(
    text: str, expected: Audience | tuple[str, ...]
) -> None:
    if isinstance(expected, tuple):
        expected = Audience(all_peers=False, orgs=tuple(map(parse_org, expected)))
    assert lists.parse_audience(text) == expected


@pytest.mark.parametrize("text", ["all-peers,a.example", "A.example", "localhost", "a.example;b"])
def test_an_audience_of_what_is_no_organization_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        lists.parse_audience(text)


def test_a_new_list_is_ours_and_empty_and_reaches_whom_it_says(store: Store) -> None:
    befriend(store)
    record = create(store, audience=lists.parse_audience("platform.example"))
    assert (record.own, record.via, record.log.size, record.charter_version) == (True, None, 0, 1)
    status = follow_state.load_follow_status(store.connection, record.list)
    assert status.state is FollowState.OWN
    charter = record.open_charter()
    assert charter is not None
    assert charter.allows("platform.example")
    assert not charter.allows("ngo.example")


def test_a_list_cannot_be_made_twice(store: Store) -> None:
    create(store, audience=EVERYBODY)
    version = store.version
    with pytest.raises(CommandError, match="already has the list"):
        create(store, audience=NOBODY)
    assert store.version == version
    assert audience_of(store) == EVERYBODY


@pytest.mark.parametrize("name", ["", "-x", "a/b", "Ä", "x" * 64])
def test_a_list_needs_a_name(store: Store, name: str) -> None:
    with pytest.raises(MalformedError):
        create(store, name)


def test_only_the_publisher_key_of_this_organization_makes_lists_and_audiences(
    store: Store,
) -> None:
    record = create(store)
    version = store.version
    for key in (signing_key("thief"), role_key(ORG, Role.LOG), role_key(ORG, Role.ROOT)):
        with pytest.raises(ConfigError):
            lists.create_list(store, "other", NOBODY, key, now_ms=T0, mark=mark_of(store))
        with pytest.raises(ConfigError):
            lists.change_audience(store, record, EVERYBODY, key, now_ms=T0)
    assert store.version == version


def test_too_large_an_audience_is_refused_and_the_one_before_stays(store: Store) -> None:
    record = create(store, audience=EVERYBODY)
    orgs = sorted(f"o{number}.example" for number in range(limits.MAX_AUDIENCE_ORGS + 1))
    large = Audience(all_peers=False, orgs=tuple(map(parse_org, orgs)))
    with pytest.raises(LimitError):
        widen(store, record, large)
    assert audience_of(store) == EVERYBODY


def test_of_two_changes_at_the_same_time_each_has_a_version_and_the_last_is_in_force(
    store: Store,
) -> None:
    # Both commands have read the list before either writes.
    record = create(store, audience=EVERYBODY)
    narrow = lists.parse_audience("platform.example")
    assert widen(store, record, narrow) == 2
    assert widen(store, record, NOBODY) == 3
    assert audience_of(store) == NOBODY


# --- following --------------------------------------------------------------------------------


def test_a_list_is_followed_from_its_owner_or_by_a_relay(store: Store) -> None:
    for org in ("platform.example", "relay.example"):
        befriend(store, org)
    record = lists.follow(store, FOREIGN, None)
    assert (record.via, record.own) == ("platform.example", False)
    version = store.version
    assert lists.follow(store, FOREIGN, None) == record
    assert store.version == version
    record = lists.follow(store, FOREIGN, parse_org("relay.example"))
    assert record.via == "relay.example"


def test_a_list_is_not_followed_without_its_owners_root_or_without_the_peer(store: Store) -> None:
    befriend(store)
    with pytest.raises(CommandError, match=r"root of ngo\.example is not pinned"):
        lists.follow(store, Origin.parse("ngo.example/main"), None)
    with pytest.raises(CommandError, match=r"ngo\.example is not a peer"):
        lists.follow(store, FOREIGN, parse_org("ngo.example"))
    assert list(list_store.iter_lists(store.connection)) == []


def test_a_list_of_our_own_is_not_followed(store: Store) -> None:
    befriend(store)
    create(store)
    origin = Origin.parse(f"{ORG}/known")
    for via in (None, parse_org("platform.example")):
        with pytest.raises(CommandError, match="is a list of this node"):
            lists.follow(store, origin, via)
    with pytest.raises(CommandError, match="is a list of this node"):
        lists.unfollow(store, origin)


def test_a_list_that_is_not_followed_any_more_stays_and_can_be_followed_again(
    store: Store,
) -> None:
    befriend(store)
    lists.follow(store, FOREIGN, None)
    lists.unfollow(store, FOREIGN)
    record = lists.find_list(store, str(FOREIGN))
    assert record.via is None
    status = follow_state.load_follow_status(store.connection, record.list)
    assert status.state is FollowState.STOPPED
    assert lists.follow(store, FOREIGN, None).via == "platform.example"
    status = follow_state.load_follow_status(store.connection, record.list)
    assert status.state is FollowState.CATCHING_UP


def test_lists_are_found_by_what_people_call_them(store: Store) -> None:
    befriend(store)
    own = create(store)
    assert lists.choose_list(store, []) == own
    lists.follow(store, FOREIGN, None)
    assert lists.find_list(store, "known") == own
    assert lists.find_own_list(store, f"{ORG}/known") == own
    assert lists.choose_list(store, [str(FOREIGN)]).origin == FOREIGN
    with pytest.raises(CommandError, match="which list"):
        lists.choose_list(store, [])
    with pytest.raises(CommandError, match="only its owner can change it"):
        lists.find_own_list(store, str(FOREIGN))
    with pytest.raises(CommandError) as caught:
        lists.find_list(store, "other")
    assert str(FOREIGN) in caught.value.hint
    assert f"{ORG}/known" in caught.value.hint
