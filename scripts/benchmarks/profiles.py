"""Where the time goes: the functions in which the commands of a first sync are found most often."""

from __future__ import annotations

from typing import Final

from lists import Changes, write_list
from nodes import LIST, Party
from plan import Plan, Stage
from results import Book, short
from tables import section, table
from workers import work

_SHOWN: Final = 8
_COMMANDS: Final = {
    "import": "`hashfed import`",
    "publish": "`hashfed publish`",
    "sync": "`hashfed sync`",
    "change": "`hashfed publish` of one change",
}


def measure(stage: Stage) -> None:
    """Profile each command of a first sync, and one change."""
    files = write_list(stage.folder / "list", stage.plan.main)
    coalition = stage.make_nodes()
    publisher, subscriber = coalition.publisher, coalition.join("subscriber")
    _profile(stage, "import", publisher, "import", LIST, str(files.changes))
    _profile(stage, "publish", publisher, "publish", LIST)
    with publisher.serving():
        _profile(stage, "sync", subscriber, "sync")
    change = Changes(stage.folder / "changes", files.count).mixed(stage.plan.big_delta)
    publisher.run("import", LIST, change.changes)
    _profile(stage, "change", publisher, "publish", LIST)


def _profile(stage: Stage, name: str, party: Party, *arguments: str) -> None:
    home = str(party.home)
    told = work(stage.folder, "in_profile", "profile", home=home, arguments=arguments)
    stage.results.put(f"profile.{name}.seconds", told["seconds"])
    for function, share in told["shares"].items():
        stage.results.put(f"profile.{name}:{function}", share)


def render(book: Book, plan: Plan) -> list[str]:
    """Return the table on where the time goes."""
    rows = []
    for name, title in _COMMANDS.items():
        start = f"profile.{name}:"
        shares = [
            (share, figure.removeprefix(start))
            for values in book.once.rounds
            for figure, share in values.items()
            if figure.startswith(start)
        ]
        if shares:
            shown = sorted(shares, reverse=True)[:_SHOWN]
            text = ", ".join(f"{share:.0%} `{function}`" for share, function in shown)
            seconds = short(book.once.middle(f"profile.{name}.seconds"))
            rows.append((title, f"{seconds} s", text))
    return section(
        f"Where the time goes, {short(plan.main)} entries",
        table(
            ("command, sampled every 2 ms", "time", "innermost function, share of samples"), rows
        ),
    )
