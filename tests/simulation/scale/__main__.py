"""Simulates a coalition of many members on this machine. See `scripts/scale`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.simulation.scale import tables
from tests.simulation.scale.bounds import Profile
from tests.simulation.scale.network import KINDS
from tests.simulation.scale.stories import Outcome, Plan, run


def _parse_networks(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(KINDS):
        raise argparse.ArgumentTypeError(
            f"unknown network {min(unknown)!r}, expected some of {','.join(KINDS)}"
        )
    return names


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/scale", description=__doc__)
    parser.add_argument("--members", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--lists", type=int, default=10, metavar="N", help="default 10")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument(
        "--load",
        type=int,
        default=10_000,
        metavar="OPS",
        help="operations in each of the five deltas of the import under load (default 10000)",
    )
    parser.add_argument(
        "--networks",
        type=_parse_networks,
        default=list(KINDS),
        metavar="NAME,...",
        help=f"only some of {','.join(KINDS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file")
    arguments = parser.parse_args()
    if arguments.members < 10 or not 2 <= arguments.lists < arguments.members:
        parser.error("expected at least 10 members, and 2 lists or more, fewer than members")
    if not 1 <= arguments.load <= 10_000:
        parser.error("--load: expected 1 to 10000")
    if arguments.write is not None and not tables.has_place(arguments.write):
        parser.error(f"--write: {arguments.write} is no document with a place for the tables")
    return arguments


def main() -> int:
    """Run the simulation and return the exit code."""
    arguments = _parse_arguments()
    plan = Plan(
        members=arguments.members,
        lists=arguments.lists,
        load_ops=arguments.load,
        seed=arguments.seed,
    )
    outcomes = []
    for name in arguments.networks:
        print(f"scripts/scale: {name}", file=sys.stderr, flush=True)
        outcomes.append(run(name, plan))
    command = " ".join(["scripts/scale", *sys.argv[1:]])
    text = tables.render(outcomes, plan, Profile(members=plan.members), command)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_figures(outcomes, plan), indent=1) + "\n")
    if arguments.write is not None:
        tables.write_into(arguments.write, text)
    return 0


def _figures(outcomes: list[Outcome], plan: Plan) -> dict[str, object]:
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


if __name__ == "__main__":
    sys.exit(main())
