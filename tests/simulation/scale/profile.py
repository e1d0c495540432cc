"""The profile of many members: its options, its run, and what is written of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.simulation.scale import tables
from tests.simulation.scale.network import KINDS
from tests.simulation.scale.stories import Outcome, Plan, run


def _parse_networks(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(KINDS):
        raise argparse.ArgumentTypeError(
            f"unknown network {min(unknown)!r}, expected some of {','.join(KINDS)}"
        )
    return names


def add_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that only this profile has."""
    group.add_argument(
        "--members", type=int, metavar="N", help="simulate this many members, 10 or more"
    )
    group.add_argument("--lists", type=int, default=10, metavar="N", help="default 10")
    group.add_argument(
        "--load",
        type=int,
        default=10_000,
        metavar="OPS",
        help="operations in each of the five deltas of the import under load (default 10000)",
    )
    group.add_argument(
        "--networks",
        type=_parse_networks,
        default=list(KINDS),
        metavar="NAME,...",
        help=f"only some of {','.join(KINDS)}",
    )
    group.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file")


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exit with an error if the options cannot be run."""
    if arguments.members < 10 or not 2 <= arguments.lists < arguments.members:
        parser.error("expected at least 10 members, and 2 lists or more, fewer than members")
    if not 1 <= arguments.load <= 10_000:
        parser.error("--load: expected 1 to 10000")
    if arguments.write is not None and not tables.has_place(arguments.write):
        parser.error(f"--write: {arguments.write} is not a document with a place for the tables")


def simulate(arguments: argparse.Namespace, command: str) -> int:
    """Run the stories in each network, print the tables, and return the exit code."""
    plan = Plan(
        members=arguments.members,
        lists=arguments.lists,
        load_ops=arguments.load,
        seed=1 if arguments.seed is None else arguments.seed,
    )
    outcomes = []
    for name in arguments.networks:
        print(f"scripts/simulate: {name}", file=sys.stderr, flush=True)
        outcomes.append(run(name, plan))
    text = tables.render(outcomes, plan, command)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_figures(outcomes, plan), indent=1) + "\n")
    if arguments.write is not None:
        tables.write_into(arguments.write, text)
    return 0


def _figures(outcomes: Sequence[Outcome], plan: Plan) -> dict[str, object]:
    return {
        "plan": asdict(plan),
        "networks": {
            outcome.network.name: {
                "verified": outcome.verified,
                "spreads": {name: asdict(spread) for name, spread in outcome.spreads.items()},
                "quiet_bytes": outcome.quiet_bytes,
                "quiet_seconds": outcome.quiet_seconds,
                "members": [asdict(member.counts) for member in outcome.members],
            }
            for outcome in outcomes
        },
    }
