"""What every command gets: the node's folder, its store, and how to print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import click

from node.cli import output
from node.clock import Clock, SystemClock
from node.config import Config, load_config
from node.errors import ConfigError
from node.home import Home
from node.publish import high_water
from node.publish.high_water import HighWater
from node.store import orgs
from node.store.connection import Store
from node.store.sqlite import sqlite_errors
from node.system import filesystem

_F = TypeVar("_F", bound=Callable[..., object])


@dataclass(kw_only=True)
class Context:
    """The options and the node that a command works on.

    Attributes:
        home_option: what `--home` said.
        as_json: print JSON.
        quiet: print only results.
        environ: the process's environment.
        clock: the machine's clock.
    """

    home_option: str | None
    as_json: bool
    quiet: bool
    environ: Mapping[str, str]
    clock: Clock = field(default_factory=SystemClock)
    _config: Config | None = field(default=None, init=False)

    @property
    def home(self) -> Home:
        """The node's folder."""
        return Home.locate(self.home_option, self.environ)

    def remark(self, message: str) -> None:
        """Tell the person something that can be left out; `--quiet` leaves it out."""
        if not self.quiet:
            output.say(message)

    def config(self) -> Config:
        """Return the node's configuration, which is read only once."""
        if self._config is None:
            self._config = load_config(self.home, self.environ)
        return self._config

    def mark(self) -> HighWater:
        """Return the node's high-water mark."""
        return high_water.of_node(self.home, self.config())

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store for writing."""
        folder = self.home.store.resolve().parent
        if filesystem.kind_of(folder) is not None:
            filesystem.require_local(folder, self.config().node.allow_filesystem)
        with _closing(Store.open(self.home.store, self.clock)) as store:
            self._require_own(store)
            yield store

    @contextmanager
    def reader(self) -> Iterator[Store]:
        """Open the store for reading."""
        with _closing(Store.open_reader(self.home.store, self.clock)) as store:
            self._require_own(store)
            yield store

    def _require_own(self, store: Store) -> None:
        """Refuse the store of another organization."""
        try:
            org = self.config().node.org
        except ConfigError:
            # Lookups go on without a configuration; commands that need it say what is wrong.
            return
        orgs.require_org(store, org)


@contextmanager
def _closing(store: Store) -> Iterator[Store]:
    """Close a store after the block; turn errors of its file into ones that say what to do."""
    try:
        with sqlite_errors(store.path):
            yield store
    finally:
        store.close()


pass_context = click.make_pass_decorator(Context)


def json_option(command: _F) -> _F:
    """Let a command take `--json` after its name too."""

    def remember(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            context.find_object(Context).as_json = True  # type: ignore[union-attr]

    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Print JSON.",
    )(command)
