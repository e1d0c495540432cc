"""The node's configuration: one TOML file, the environment and flags, read strictly.

What comes first wins: a flag, the environment (`HASHFED_<SECTION>_<KEY>`), config.toml, the
default. Whatever is not known here is an error, in the file as in the environment: a misspelt key
would otherwise be a setting that silently does nothing. Holds no secrets: keys are files.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Generic, NoReturn, TypeVar

from federation.errors import FederationError
from federation.names import OrgName, parse_org
from node.address import Address, parse_address
from node.errors import ConfigError
from node.home import HOME_VARIABLE, Home
from node.system import filesystem

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_Raw = TypeVar("_Raw")
_E = TypeVar("_E", bound=StrEnum)

VARIABLE_PREFIX: Final = "HASHFED_"
"""What the name of every environment variable of this program starts with."""

# --- what a configuration is ------------------------------------------------------------------


class LogLevel(StrEnum):
    """From which level on events are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How events are written; AUTO is CONSOLE on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who the node is and where it is.

    Attributes:
        org: the organization that it speaks for.
        listen: where it serves its peers.
        advertise: where its peers call it.
        allow_filesystem: the one kind of file system to use all the same, or empty.
    """

    org: OrgName
    listen: Address
    advertise: Address
    allow_filesystem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where the metrics are.

    Attributes:
        listen: where they are served, or None for nowhere.
    """

    listen: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What is logged.

    Attributes:
        level: from which level on.
        format: how.
    """

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """How the node follows its peers, in seconds.

    Attributes:
        interval_seconds: the longest wait before a peer is contacted again.
        idle_timeout_seconds: how long a stream may be silent before it counts as broken.
        heartbeat_seconds: how often this node speaks on a stream without news.
        check_budget_seconds: how long what was accepted may wait for the checks behind acceptance.
    """

    interval_seconds: float = 300.0
    idle_timeout_seconds: float = 60.0
    heartbeat_seconds: float = 15.0
    check_budget_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class PeersNeeded:
    """How many peers have to answer before the first signature after a start.

    Attributes:
        count: so many; None for all.
    """

    count: int | None = None

    def __str__(self) -> str:
        return "all" if self.count is None else str(self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishConfig:
    """How the node publishes, and guards its own lists.

    Attributes:
        mark_dir: the folder of the high-water mark, or None for that in the home folder.
        peers_needed: how many peers have to answer before the first signature after a start.
        ask_seconds: how long peers are waited for before a publication.
        snapshot_ops: after how many operations since its last snapshot a list gets a new one, if
            they are also half as many again as its live entries; 0 for on command only.
    """

    mark_dir: Path | None = None
    peers_needed: PeersNeeded = PeersNeeded()
    ask_seconds: float = 3.0
    snapshot_ops: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """How the store is looked after.

    Attributes:
        scrub_hours: within how many hours `serve` checks all that is stored, again and again; 0
            for never.
    """

    scrub_hours: float = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration of one node.

    Attributes:
        node: who it is and where.
        metrics: where its metrics are.
        log: what it logs.
        sync: how it follows its peers.
        publish: how it publishes, and guards its own lists.
        store: how its store is looked after.
        sources: where each value came from, by `section.key`; what is missing is a default.
    """

    node: NodeConfig
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One value of a configuration.

    Attributes:
        key: `section.key`.
        value: as text, as it would stand in an environment variable.
        source: where it came from.
    """

    key: str
    value: str
    source: str


# --- settings ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Setting(Generic[_T_co]):
    """One setting: its name and how to read it from TOML and from text."""

    section: str
    key: str
    from_toml: Callable[[object], _T_co]
    from_text: Callable[[str], _T_co]
    comment: str

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        return f"{VARIABLE_PREFIX}{self.section}_{self.key}".upper()


def _format_number(value: float) -> str:
    # Within the ranges allowed here, the shortest exact form never has an exponent.
    return str(int(value)) if float(value).is_integer() else repr(value)


def _text(section: str, key: str, parse: Callable[[str], _T], comment: str) -> _Setting[_T]:
    def from_toml(raw: object) -> _T:
        if not isinstance(raw, str):
            raise ConfigError(f"got {_toml_type(raw)}, expected a text in quotes")
        return parse(raw)

    return _Setting(section, key, from_toml, parse, comment)


def _seconds(
    section: str, key: str, lowest: float, highest: float, comment: str
) -> _Setting[float]:
    return _number(section, key, "seconds", lowest, highest, comment)


def _number(
    section: str, key: str, unit: str, lowest: float, highest: float, comment: str
) -> _Setting[float]:
    expected = f"a number of {unit} from {_format_number(lowest)} to {_format_number(highest)}"

    def from_toml(raw: object) -> float:
        # In Python, true is a number.
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise ConfigError(f"got {_toml_type(raw)}, expected {expected}")
        if not math.isfinite(raw) or not lowest <= raw <= highest:
            raise ConfigError(f"got {raw}, expected {expected}")
        return float(raw)

    def from_text(text: str) -> float:
        if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,20})?", text, re.ASCII) is None:
            raise ConfigError(f"got {text!r}, expected {expected}")
        return from_toml(float(text))

    return _Setting(section, key, from_toml, from_text, comment)


def _count(section: str, key: str, highest: int, comment: str) -> _Setting[int]:
    expected = f"a whole number from 0 to {highest}"

    def from_toml(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise ConfigError(f"got {_toml_type(raw)}, expected {expected}")
        if not 0 <= raw <= highest:
            raise ConfigError(f"got {raw}, expected {expected}")
        return raw

    def from_text(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) is None:
            raise ConfigError(f"got {text!r}, expected {expected}")
        return from_toml(int(text))

    return _Setting(section, key, from_toml, from_text, comment)


def _toml_type(raw: object) -> str:
    match raw:
        case bool():
            return f"the boolean {str(raw).lower()}"
        case int() | float():
            return f"the number {raw}"
        case str():
            return f"the text {raw!r}"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _parse_org(text: str) -> OrgName:
    try:
        return parse_org(text)
    except FederationError as error:
        raise ConfigError(str(error)) from error


def _parse_listen(text: str) -> Address:
    return parse_address(text, allow_port_0=True)


def _parse_advertise(text: str) -> Address:
    address = parse_address(text)
    if not address.is_callable:
        raise ConfigError(
            f"address {text!r} is none that a peer can call",
            hint="name the host under which peers reach this node",
        )
    return address


def _parse_metrics_listen(text: str) -> Address | None:
    return _parse_listen(text) if text else None


def _parse_mark_dir(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text)
    if not text.isprintable() or not path.is_absolute():
        raise ConfigError(
            f"{text!r} is no folder's full name",
            hint="name a folder from the root on, best of another disk",
        )
    return path


def _parse_peers_needed(text: str) -> PeersNeeded:
    if text == "all":
        return PeersNeeded()
    if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) is None:
        raise ConfigError(f"got {text!r}, expected all, or a number of peers in quotes")
    return PeersNeeded(int(text))


def _parse_filesystem(text: str) -> str:
    if text and text not in filesystem.UNSAFE:
        raise ConfigError(
            f"got {text!r}, expected one of {', '.join(sorted(filesystem.UNSAFE))}",
            hint=_suggest(text, filesystem.UNSAFE),
        )
    return text


def _word_of(words: type[_E]) -> Callable[[str], _E]:
    def parse(text: str) -> _E:
        try:
            return words(text)
        except ValueError as error:
            raise ConfigError(
                f"got {text!r}, expected one of {', '.join(words)}",
                hint=_suggest(text, words),
            ) from error

    return parse


_ORG: Final = _text(
    "node", "org", _parse_org, "The organization that this node speaks for: a DNS name it owns."
)
_LISTEN: Final = _text(
    "node",
    "listen",
    _parse_listen,
    "Where peers are served: host:port. 0.0.0.0 is every interface.",
)
_ADVERTISE: Final = _text(
    "node", "advertise", _parse_advertise, "Where peers call this node, if that is not `listen`."
)
_ALLOW_FILESYSTEM: Final = _text(
    "node",
    "allow_filesystem",
    _parse_filesystem,
    'Use this kind of file system although it can lose or damage the store; "" is none.',
)
_METRICS_LISTEN: Final = _text(
    "metrics",
    "listen",
    _parse_metrics_listen,
    'Where metrics are served over plain HTTP: host:port, best of this machine only; "" is off.',
)
_LEVEL: Final = _text("log", "level", _word_of(LogLevel), "debug, info, warning or error.")
_FORMAT: Final = _text(
    "log",
    "format",
    _word_of(LogFormat),
    "auto (console on a terminal, json elsewhere), json or console.",
)
_INTERVAL: Final = _seconds(
    "sync",
    "interval_seconds",
    1,
    86_400,
    "The longest wait before a peer is contacted again.",
)
_IDLE_TIMEOUT: Final = _seconds(
    "sync",
    "idle_timeout_seconds",
    0.1,
    3_600,
    "How long a stream may be silent before it counts as broken.",
)
_HEARTBEAT: Final = _seconds(
    "sync",
    "heartbeat_seconds",
    0.05,
    1_800,
    "How often this node speaks on a stream without news; less than idle_timeout_seconds.",
)
_CHECK_BUDGET: Final = _seconds(
    "sync",
    "check_budget_seconds",
    0.01,
    86_400,
    "How long what was accepted may wait for the checks behind acceptance.",
)
_SCRUB_HOURS: Final = _number(
    "store",
    "scrub_hours",
    "hours",
    0,
    8_760,
    "Hours within which `serve` checks all that is stored, again and again; 0: never.",
)
_MARK_DIR: Final = _text(
    "publish",
    "mark_dir",
    _parse_mark_dir,
    'The folder of the high-water mark, best on another disk; "" is mark/ in the home folder.',
)
_PEERS_NEEDED: Final = _text(
    "publish",
    "peers_needed",
    _parse_peers_needed,
    "How many peers have to answer before the first signature after a start: all, or a number.",
)
_ASK_SECONDS: Final = _seconds(
    "publish", "ask_seconds", 0.1, 60, "How long peers are waited for before a publication."
)
_SNAPSHOT_OPS: Final = _count(
    "publish",
    "snapshot_ops",
    1_000_000_000_000,
    "Operations since its last snapshot after which a list gets one; 0: on command only.",
)

_SETTINGS: Final[tuple[_Setting[object], ...]] = (
    _ORG,
    _LISTEN,
    _ADVERTISE,
    _ALLOW_FILESYSTEM,
    _METRICS_LISTEN,
    _LEVEL,
    _FORMAT,
    _SCRUB_HOURS,
    _MARK_DIR,
    _PEERS_NEEDED,
    _ASK_SECONDS,
    _SNAPSHOT_OPS,
    _INTERVAL,
    _IDLE_TIMEOUT,
    _HEARTBEAT,
    _CHECK_BUDGET,
)
_SECTIONS: Final = {
    "node": "Who this node is and where.",
    "metrics": "Metrics for Prometheus.",
    "log": "Events, on stderr.",
    "store": "Looking after the store.",
    "publish": "Publishing our own lists, and guarding that no position is signed twice.",
    "sync": "Following peers. Times are in seconds.",
}


# --- reading ----------------------------------------------------------------------------------


def load_config(
    home: Home, environ: Mapping[str, str], overrides: Mapping[str, str | None] | None = None
) -> Config:
    """Load the configuration of a node.

    Args:
        home: the node's folder.
        environ: the environment.
        overrides: flags of the command line, by `section.key`; None is a flag that was not given.

    Raises:
        ConfigError: there is no config.toml, or anything in the three places is not known, of
            the wrong type, out of range, or missing.
    """
    reader = _Reader(home.config, environ, overrides or {})
    listen = reader.require(_LISTEN)
    config = Config(
        node=NodeConfig(
            org=reader.require(_ORG),
            listen=listen,
            advertise=reader.get(_ADVERTISE, listen),
            allow_filesystem=reader.get(_ALLOW_FILESYSTEM, ""),
        ),
        metrics=MetricsConfig(listen=reader.get(_METRICS_LISTEN, MetricsConfig().listen)),
        log=LogConfig(
            level=reader.get(_LEVEL, LogConfig().level),
            format=reader.get(_FORMAT, LogConfig().format),
        ),
        sync=SyncConfig(
            interval_seconds=reader.get(_INTERVAL, SyncConfig().interval_seconds),
            idle_timeout_seconds=reader.get(_IDLE_TIMEOUT, SyncConfig().idle_timeout_seconds),
            heartbeat_seconds=reader.get(_HEARTBEAT, SyncConfig().heartbeat_seconds),
            check_budget_seconds=reader.get(_CHECK_BUDGET, SyncConfig().check_budget_seconds),
        ),
        publish=PublishConfig(
            mark_dir=reader.get(_MARK_DIR, PublishConfig().mark_dir),
            peers_needed=reader.get(_PEERS_NEEDED, PublishConfig().peers_needed),
            ask_seconds=reader.get(_ASK_SECONDS, PublishConfig().ask_seconds),
            snapshot_ops=reader.get(_SNAPSHOT_OPS, PublishConfig().snapshot_ops),
        ),
        store=StoreConfig(scrub_hours=reader.get(_SCRUB_HOURS, StoreConfig().scrub_hours)),
        sources=reader.sources,
    )
    if config.sync.heartbeat_seconds >= config.sync.idle_timeout_seconds:
        heartbeat, idle_timeout = config.sync.heartbeat_seconds, config.sync.idle_timeout_seconds
        raise ConfigError(
            f"sync.heartbeat_seconds: got {_format_number(heartbeat)} "
            f"({config.sources.get(_HEARTBEAT.name, 'default')}), expected less than "
            f"sync.idle_timeout_seconds, which is {_format_number(idle_timeout)} "
            f"({config.sources.get(_IDLE_TIMEOUT.name, 'default')})",
            hint="a third of idle_timeout_seconds is a good value",
        )
    return config


class _Reader:
    """Reads settings from the first of the three places that has them.

    Attributes:
        sources: where each value that is no default came from.
    """

    def __init__(
        self, path: Path, environ: Mapping[str, str], overrides: Mapping[str, str | None]
    ) -> None:
        self.sources: dict[str, str] = {}
        self._file = _File(path)
        self._environ = _known_variables(environ)
        self._overrides = overrides
        names = [setting.name for setting in _SETTINGS]
        for name in overrides:
            if name not in names:
                _refuse_unknown("command line", "setting", name, names)

    def require(self, setting: _Setting[_T]) -> _T:
        """Return the value of a setting that has no default."""
        value = self._find(setting)
        if value is None:
            raise ConfigError(
                f"{setting.name} is set nowhere",
                hint=f"set {setting.key} in [{setting.section}] of {self._file.path}, "
                f"or {setting.variable}",
            )
        return value[0]

    def get(self, setting: _Setting[_T], default: _T) -> _T:
        """Return the value of a setting, or its default."""
        value = self._find(setting)
        return default if value is None else value[0]

    def _find(self, setting: _Setting[_T]) -> tuple[_T] | None:
        override = self._overrides.get(setting.name)
        if override is not None:
            return self._read(setting, "command line", setting.from_text, override)
        variable = self._environ.get(setting.variable)
        if variable is not None:
            where = f"environment variable {setting.variable}"
            return self._read(setting, where, setting.from_text, variable)
        table = self._file.document.get(setting.section, {})
        if setting.key not in table:
            return None
        where = self._file.where(setting.section, setting.key)
        return self._read(setting, where, setting.from_toml, table[setting.key])

    def _read(
        self, setting: _Setting[_T], where: str, parse: Callable[[_Raw], _T], raw: _Raw
    ) -> tuple[_T]:
        try:
            value = parse(raw)
        except ConfigError as error:
            raise ConfigError(f"{where}: {setting.name}: {error}", hint=error.hint) from error
        self.sources[setting.name] = where
        return (value,)


class _File:
    """A parsed config.toml, all keys of which are known.

    Attributes:
        path: the file.
        document: its sections.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._text = path.read_bytes().decode()
            raw = tomllib.loads(self._text)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path} does not exist",
                hint="create the node with 'hashfed init', or name another folder with --home",
            ) from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not text in UTF-8") from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(
                f"{path} is not valid TOML: {error}",
                hint="nothing was changed; put the line right, or your copy of the file back",
            ) from error
        self.document = self._check(raw)

    def where(self, section: str, key: str) -> str:
        """Say where a key stands, with its line if that is easy to tell."""
        line = _find_line(self._text, section, key)
        return f"{self.path}, line {line}" if line else str(self.path)

    def _check(self, raw: Mapping[str, object]) -> Mapping[str, Mapping[str, object]]:
        document: dict[str, Mapping[str, object]] = {}
        for section, table in raw.items():
            if section not in _SECTIONS:
                names = _names(section) if not isinstance(table, dict) else ()
                where = self.where("", section)
                if names:
                    raise ConfigError(
                        f"{where}: key {section!r} stands outside of any section",
                        hint=f"did you mean {' or '.join(names)}?",
                    )
                _refuse_unknown(where, "section", section, _SECTIONS)
            if not isinstance(table, dict):
                raise ConfigError(
                    f"{self.where('', section)}: got {_toml_type(table)}, expected [{section}]"
                )
            known = [setting.key for setting in _SETTINGS if setting.section == section]
            for key in table:
                if key not in known:
                    _refuse_unknown(self.where(section, key), f"[{section}] key", key, known)
            document[section] = table
        return document


def _names(key: str) -> list[str]:
    return [setting.name for setting in _SETTINGS if setting.key == key]


def _known_variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    known = {setting.variable for setting in _SETTINGS}
    ours = {name: text for name, text in environ.items() if name.startswith(VARIABLE_PREFIX)}
    ours.pop(HOME_VARIABLE, None)
    for name in sorted(ours):
        if name not in known:
            _refuse_unknown("environment", "variable", name, {*known, HOME_VARIABLE})
    return ours


def _refuse_unknown(where: str, what: str, name: str, known: Iterable[str]) -> NoReturn:
    # An unknown key can have an unknown section's elsewhere: the one of that very name is meant.
    bare = name.lower().replace("-", "_")
    elsewhere = _names(bare) if "key" in what else []
    hint = f"it belongs into [{elsewhere[0].partition('.')[0]}]" if elsewhere else ""
    raise ConfigError(f"{where}: unknown {what} {name!r}", hint=hint or _suggest(name, known))


def _suggest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    folded = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1)
    return f"did you mean {folded[close[0]]}?" if close else f"known are {', '.join(names)}"


def _find_line(text: str, section: str, key: str) -> int | None:
    """Find the line of a key, or of a section itself when `section` is empty.

    The TOML parser does not say; this looks at the ways in which people write such files. In
    others it finds nothing, or in the worst case the like text of a multi-line string.
    """
    name = rf"""["']?{re.escape(key)}["']?"""
    if section:
        table = rf"""["']?{re.escape(section)}["']?"""
        dotted = re.compile(rf"\s*{table}\s*(?:\.\s*{name}\s*)?=")
        plain = re.compile(rf"\s*{name}\s*[.=]")
    else:
        dotted = re.compile(rf"\s*(?:\[\s*{name}\s*[.\]]|{name}\s*[.=])")
        plain = re.compile(r"(?!)")
    current = ""
    for number, line in enumerate(text.split("\n"), start=1):
        header = re.match(r"""\s*\[\s*["']?([^\]"']*?)["']?\s*\]""", line)
        if header is not None:
            current = header[1]
        if (not current or not section) and dotted.match(line):
            return number
        if current == section and plain.match(line):
            return number
    return None


# --- writing ----------------------------------------------------------------------------------


def describe(config: Config) -> list[Described]:
    """List every value of a configuration and where it came from."""
    return [
        Described(
            key=setting.name,
            value=_format_value(_value(config, setting)),
            source=config.sources.get(setting.name, "default"),
        )
        for setting in _SETTINGS
    ]


def render_initial(config: Config) -> str:
    """Render the config.toml of a new node: what differs from the defaults, the rest as comments.

    Reading it back gives an equal configuration.
    """
    defaults = Config(
        node=NodeConfig(
            org=config.node.org, listen=config.node.listen, advertise=config.node.listen
        )
    )
    lines = [
        "# The configuration of this node. A flag wins over an environment variable, and that over",
        "# this file; HASHFED_LOG_LEVEL stands for `level` in [log], and so on. What is commented",
        "# out is the default. `hashfed config` shows what is in force, and why.",
    ]
    for section, comment in _SECTIONS.items():
        lines += ["", f"# {comment}", f"[{section}]"]
        for setting in _SETTINGS:
            if setting.section != section:
                continue
            value = _value(config, setting)
            required = setting in {_ORG, _LISTEN}
            mark = "" if required or value != _value(defaults, setting) else "# "
            lines += [f"# {setting.comment}", f"{mark}{setting.key} = {_format_toml(value)}"]
    return "\n".join([*lines, ""])


def _value(config: Config, setting: _Setting[object]) -> object:
    value: object = getattr(getattr(config, setting.section), setting.key)
    return value


def _format_value(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return _format_number(value)
        case _:
            return str(value)


def _format_toml(value: object) -> str:
    text = _format_value(value)
    # TOML's escapes are those of JSON.
    return text if isinstance(value, float | int) else json.dumps(text, ensure_ascii=False)
