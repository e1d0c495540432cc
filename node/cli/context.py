"""What every command gets: the node's folder, its store, its configuration, how to print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import click

from node import filesystem, highwater, identity, locks
from node.cli import output
from node.clock import SystemClock
from node.config import Config, load_config
from node.errors import StoreError
from node.highwater import HighWater
from node.home import Home
from node.publishing import PublishingKeys
from node.staging import Staging
from node.store.connection import Store
from node.store.registry import ListRecord
from node.store.sqlite import sqlite_errors

_F = TypeVar("_F", bound=Callable[..., object])


@dataclass(kw_only=True)
class Context:
    """The options and the node that a command works on.

    Attributes:
        home_option: what `--home` said.
        as_json: print JSON.
        quiet: print results alone.
        environ: the process's environment.
        clock: the machine's clock.
    """

    home_option: str | None
    as_json: bool
    quiet: bool
    environ: Mapping[str, str]
    clock: SystemClock = field(default_factory=SystemClock)

    @property
    def home(self) -> Home:
        """The node's folder."""
        return Home.locate(self.home_option, self.environ)

    def config(self, overrides: Mapping[str, str | None] | None = None) -> Config:
        """Return the node's configuration; options come before the environment and the file."""
        return load_config(self.home, self.environ, overrides)

    def keys(self) -> PublishingKeys:
        """Return the keys that publishing needs."""
        return PublishingKeys(
            publisher=identity.load_signer(self.home.publisher_key),
            log=identity.load_signer(self.home.log_key),
        )

    def remark(self, message: str) -> None:
        """Tell the person something that can be left out; `--quiet` leaves it out."""
        if not self.quiet:
            output.say(message)

    def mark(self) -> HighWater:
        """Return the node's high-water mark."""
        return highwater.of_node(self.home, self.config())

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store for writing."""
        folder = self.home.store.resolve().parent
        if filesystem.kind_of(folder) is not None:
            filesystem.require_local(folder, self.config().node.allow_filesystem)
        with _closing(Store.open(self.home.store, self.clock)) as store:
            yield store

    @contextmanager
    def reader(self) -> Iterator[Store]:
        """Open the store for reading."""
        with _closing(Store.open_reader(self.home.store, self.clock)) as store:
            yield store

    @contextmanager
    def staging(self, record: ListRecord, *, what: str) -> Iterator[Staging]:
        """Open what is staged for one of our own lists, with nobody else at it.

        What an import stages depends on what is in force, and publishing moves the one into the
        other: they take turns.
        """
        path = self.home.staging_file(record.origin.name)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {path.parent}: {error.strerror}") from error
        with locks.hold(path.with_suffix(".lock"), what, wait_seconds=_STAGING_WAIT_SECONDS):
            staging = Staging.open(path)
            try:
                yield staging
            finally:
                staging.close()


@contextmanager
def _closing(store: Store) -> Iterator[Store]:
    """Close a store after the block, and say of what goes wrong with its file what to do."""
    try:
        with sqlite_errors(store.path):
            yield store
    finally:
        store.close()


_STAGING_WAIT_SECONDS: Final = 10.0
"""How long a command waits for another one that stages or publishes the same list."""

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
