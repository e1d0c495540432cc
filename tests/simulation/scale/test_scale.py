"""The simulation of a coalition: it runs the production code, and a run can be repeated exactly."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from federation.errors import Reason
from federation.trust.charter import Audience
from tests.simulation.scale import bounds, stories, tables
from tests.simulation.scale.network import iter_way

_ROOT = Path(__file__).parents[3]
_SIMULATE = str(_ROOT / "scripts" / "simulate")


def simulate(tmp_path: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Simulate fifty members; return its figures and what it printed."""
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [_SIMULATE, "--members", "50", "--load", "100", "--json", str(figures), *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(figures.read_text()), done.stdout


@pytest.mark.slow
def test_everybody_gets_every_retraction_and_verifies_every_delta(tmp_path: Path) -> None:
    figures, _ = simulate(tmp_path)
    plan = figures["plan"]
    # Those at the beginning, one in each story for each probe, and the import.
    deltas = plan["lists"] + 3 * plan["probes"] + plan["load_deltas"]
    assert len(figures["networks"]) == 4
    for outcome in figures["networks"].values():
        assert outcome["verified"] == plan["members"] * deltas
        assert all(member["verified"] == deltas for member in outcome["members"])
        others = (plan["members"] - 1) * plan["probes"]
        spreads = outcome["spreads"]
        assert len(spreads["quiet"]["seconds"]) == others
        assert len(spreads["loaded"]["seconds"]) == others
        assert len(spreads["down"]["seconds"]) + len(spreads["down"]["healed"]) == others
        # What one sends another receives.
        sent = sum(member["sent_bytes"] for member in outcome["members"])
        received = sum(member["received_bytes"] for member in outcome["members"])
        assert received <= sent
        assert len(outcome["quiet_bytes"]) == plan["members"]
    star, tree = (figures["networks"][name] for name in ("star", "tree of 8"))
    assert max(star["quiet_bytes"]) > 5 * max(tree["quiet_bytes"])
    # What is cut off waits for the next attempt, of which one is made every five minutes at least.
    healed = tree["spreads"]["down"]["healed"]
    assert 0 < max(healed) < 301


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures_and_another_gives_others(tmp_path: Path) -> None:
    some = ("--networks", "tree of 8")
    first, again, other = (simulate(tmp_path, *some, "--seed", seed)[0] for seed in ("3", "3", "4"))
    assert first == again
    assert first["networks"] != other["networks"]


def stage(kind: str = "tree of 8", members: int = 20) -> Any:  # noqa: ANN401
    """A small network in which every list has begun."""
    made = stories.Stage(kind, stories.Plan(members=members, lists=2))
    made.begin()
    return made


def test_a_relay_that_changes_what_passes_is_refused_and_spreads_nothing() -> None:
    world = stage()
    log = world.logs[0]
    relay = world.members[1]
    honest = relay.read

    def change(held: Any, start: int) -> Any:  # noqa: ANN401
        return [
            delta._replace(body=delta.body[:-1] + bytes([delta.body[-1] ^ 1]))
            for delta in honest(held, start)
        ]

    relay.read = change
    world.retract(log)
    world.timeline.run()
    via = world.network.routes(log.owner)
    below = {
        at for at in range(len(via)) if at != relay.number and relay.number in iter_way(via, at)
    }
    assert below
    for member in world.members:
        held = member.lists[log.origin]
        assert held.size == len(log.deltas) - (member.number in below)
        refused = held.refused
        # Who stands further below is sent nothing at all.
        if via[member.number] == relay.number:
            assert refused is not None
            assert refused.reason is Reason.BODY_DIGEST_MISMATCH
        else:
            assert refused is None


def test_who_leaves_the_audience_gets_nothing_more_and_relays_obey() -> None:
    world = stage()
    log = world.logs[0]
    left_out = {world.members[at].number for at in (9, 12)}
    via = world.network.routes(log.owner)
    assert all(via[at] not in {log.owner, *left_out} for at in left_out)
    log.share(
        Audience(
            all_peers=False,
            orgs=tuple(sorted(m.org for m in world.members if m.number not in left_out)),
        )
    )
    world.retract(log)
    world.timeline.run()
    for member in world.members:
        held = member.lists[log.origin]
        assert held.size == len(log.deltas) - (member.number in left_out)
        assert held.charter_version == log.charter_version - (member.number in left_out)


def test_a_member_that_was_down_goes_on_where_it_was() -> None:
    world = stage()
    relay = world.members[1]
    before = relay.counts.verified
    relay.stop()
    for log in world.logs:
        world.retract(log)
        world.publish(log, 5)
    world.timeline.after(120.0, relay.start)
    world.timeline.run()
    world.require_equal()
    assert relay.counts.verified - before == 4


def test_a_member_that_ends_in_the_middle_of_a_commit_loses_no_delta() -> None:
    world = stage()
    log = world.logs[0]
    relay = world.members[1]
    for step in range(40):
        world.timeline.after(0.004 * step, relay.stop if step % 2 else relay.start)
    for step in range(10):
        world.timeline.after(0.016 * step, lambda: world.publish(log, 20))
    world.timeline.after(1.0, relay.start)
    world.timeline.run()
    world.require_equal()


def test_the_derived_tables_of_the_page_are_those_of_the_program() -> None:
    page = (_ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    profile = bounds.Profile()
    for lines in (
        tables.member_table(profile),
        tables.serving_table(profile),
        tables.cost_table(),
    ):
        assert "\n".join(lines) in page
