"""Where the files of one node lie. Knows their names; reads, writes and creates none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from federation.errors import FederationError
from federation.names import parse_list_name
from node.errors import CommandError, ConfigError

HOME_VARIABLE: Final = "HASHFED_HOME"
"""The environment variable that names the home folder when no option does."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds everything of one node.

    Attributes:
        path: the folder, absolute.
    """

    path: Path

    @classmethod
    def locate(cls, option: str | None, environ: Mapping[str, str]) -> Self:
        """Find the home folder: the option if given, else what HASHFED_HOME says.

        There is no default: started in the wrong place, it would be a different node.

        Args:
            option: the value of the command line's option, or None.
            environ: the environment.

        Raises:
            ConfigError: neither names a folder, or the name cannot be a path.
        """
        text, where = option, "--home"
        if text is None:
            # Empty counts as unset, as shells and service managers often cannot unset.
            text, where = environ.get(HOME_VARIABLE) or None, HOME_VARIABLE
        if text is None:
            raise ConfigError(
                "no home folder was given",
                hint=f"name the node's folder: --home FOLDER, or {HOME_VARIABLE}=FOLDER",
            )
        if not text or "\0" in text:
            raise ConfigError(f"{where}: {text!r} cannot be the name of a folder")
        try:
            # Shells expand a tilde neither in --home=~/node nor in a service's environment.
            path = Path(text).expanduser().absolute()
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"{where}: {text!r}: {error}") from error
        return cls(path)

    @property
    def store(self) -> Path:
        """The database."""
        return self.path / "store.db"

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.path / "config.toml"

    @property
    def keys(self) -> Path:
        """The folder of the private keys and the TLS certificate."""
        return self.path / "keys"

    @property
    def root_key(self) -> Path:
        """The private key that signs org roots."""
        return self.keys / "root.key"

    @property
    def publisher_key(self) -> Path:
        """The private key that signs delta headers and list charters."""
        return self.keys / "publisher.key"

    @property
    def log_key(self) -> Path:
        """The private key that signs checkpoints."""
        return self.keys / "log.key"

    @property
    def tls_key(self) -> Path:
        """The private key of the TLS certificate."""
        return self.keys / "tls.key"

    @property
    def tls_certificate(self) -> Path:
        """The TLS certificate."""
        return self.keys / "tls.crt"

    @property
    def staging(self) -> Path:
        """The folder of what is staged for publishing."""
        return self.path / "staging"

    def staging_file(self, list_name: str) -> Path:
        """Return the file of what is staged for one of the node's own lists.

        Raises:
            CommandError: that is not the name of a list.
        """
        try:
            name = parse_list_name(list_name)
        except FederationError as error:
            raise CommandError(str(error)) from error
        return self.staging / f"{name}.staged"

    def lock_file(self, name: str) -> Path:
        """Return the file that the process which does `name` holds a lock on.

        It lies beside the store itself, so that two homes whose stores are links to one file share
        one lock.

        Args:
            name: a fixed word of this program, such as `serve`.
        """
        return self.store.resolve().parent / f"{name}.lock"

    @property
    def fsck_journal(self) -> Path:
        """How far an interrupted check has come."""
        return self.store.resolve().parent / "fsck.journal"

    @property
    def scrub_journal(self) -> Path:
        """How far the background scrub has come."""
        return self.store.resolve().parent / "scrub.journal"

    @property
    def mark(self) -> Path:
        """The folder of the high-water mark, unless the configuration names another one."""
        return self.path / "mark"

    @property
    def wake_socket(self) -> Path:
        """The socket that `node.system.wake` listens on.

        It lies in the home folder, so that the folder's permissions decide who may wake the node.
        In Linux's abstract namespace, any user of the machine could take the name first. The path
        may be longer than a socket address can be; `node.system.wake` deals with that.
        """
        return self.path / "wake.sock"
