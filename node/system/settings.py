"""Settings: declared once as fields of dataclasses, and read from flags, variables and a TOML file.

A flag wins over the environment, the environment over the file, and the file over the default.
Other modules declare the settings of a program; this one says how to declare, read and write them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from functools import partial
from typing import Annotated, Any, Final, get_type_hints

import msgspec

from node.errors import ConfigError
from node.home import HOME_VARIABLE
from node.system.toml_file import TomlFile, refuse_unknown, type_of

VARIABLE_PREFIX: Final = "HASHFED_"
"""The prefix of the name of every environment variable of this program."""


def text_setting(
    parse: Callable[[str], object],
    sentence: str,
    default: object = MISSING,
    shown: str = "",
    same_as: str = "",
) -> Any:  # noqa: ANN401  # a field of a dataclass
    """Declare a setting that is a text.

    Args:
        parse: returns the value of a text, or raises ConfigError.
        sentence: one sentence that describes the setting.
        default: its value if it is not set; without a default, it has to be set.
        shown: how documents show the default, if not by its value.
        same_as: the setting of the same section whose value is the default.
    """
    metadata = {"parse": parse, "sentence": sentence, "shown": shown, "same_as": same_as}
    return field(default=default, metadata=metadata)


def number_setting(default: float, unit: str, lowest: float, highest: float, sentence: str) -> Any:  # noqa: ANN401  # as above
    """Declare a number with its unit and bounds; a field of type int only takes whole numbers."""
    bounds = msgspec.Meta(ge=lowest, le=highest)
    return field(default=default, metadata={"bounds": bounds, "unit": unit, "sentence": sentence})


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """One setting as its section declares it: place, type, default and description."""

    section: str
    key: str
    type: Any
    default: object
    said: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its full name."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{VARIABLE_PREFIX}{self.section}_{self.key}".upper()

    @property
    def same_as(self) -> str:
        """The key of the same section whose value is the default; empty for none."""
        return str(self.said.get("same_as", ""))

    @property
    def is_required(self) -> bool:
        """Whether it must be set."""
        return self.default is MISSING and not self.same_as

    def value(self, config: object) -> object:
        """Return its value in a configuration."""
        value: object = getattr(getattr(config, self.section), self.key)
        return value

    def read(self, raw: object) -> object:
        """Return the value for `raw`, as read from the file.

        Raises:
            ConfigError: it has another type, or is out of bounds.
        """
        if "parse" in self.said:
            if not isinstance(raw, str):
                raise ConfigError(f"got {type_of(raw)}, expected a text in quotes")
            return self.said["parse"](raw)
        try:
            return msgspec.convert(raw, Annotated[self.type, self.said["bounds"]])
        except msgspec.ValidationError as error:
            is_of_type = type(raw) in {int, self.type}
            got = raw if is_of_type else type_of(raw)
            raise ConfigError(f"got {got}, expected {self._expected()}") from error

    def read_text(self, text: str) -> object:
        """Return the value for the text of a variable or a flag.

        Raises:
            ConfigError: as for `read`.
        """
        if "parse" in self.said:
            return self.read(text)
        plain = r"[0-9]{1,18}" if self.type is int else r"[0-9]{1,9}(?:\.[0-9]{1,20})?"
        if re.fullmatch(plain, text, re.ASCII) is None:
            raise ConfigError(f"got {text!r}, expected {self._expected()}")
        return self.read(self.type(text))

    def _expected(self) -> str:
        bounds = self.said["bounds"]
        what = "whole number" if self.type is int else f"number of {self.said['unit']}"
        return f"a {what} from {format_value(bounds.ge)} to {format_value(bounds.le)}"


def declared(sections: Mapping[str, type]) -> tuple[Setting, ...]:
    """Return the settings that sections declare, in their order."""
    return tuple(
        Setting(section, one.name, get_type_hints(cls)[one.name], one.default, one.metadata)
        for section, cls in sections.items()
        for one in dataclasses.fields(cls)
    )


@dataclass(frozen=True, slots=True)
class Values:
    """The values that were set.

    Attributes:
        sections: the values by section and key, including those copied from another setting.
        sources: where each was set, by full name; the others have their defaults.
    """

    sections: Mapping[str, dict[str, Any]]
    sources: Mapping[str, str]


def read_all(
    settings: Iterable[Setting],
    file: TomlFile,
    environ: Mapping[str, str],
    flags: Mapping[str, str | None],
) -> Values:
    """Read settings from three places.

    Args:
        settings: all that the program has.
        file: its file.
        environ: the environment.
        flags: the flags of the command line, by full name; None is a flag that was not given.

    Raises:
        ConfigError: something in the three places is unknown, of the wrong type, out of range,
            or missing.
    """
    known = {setting.name: setting for setting in settings}
    variables = {name: text for name, text in environ.items() if name.startswith(VARIABLE_PREFIX)}
    variables.pop(HOME_VARIABLE, None)
    known_variables = [setting.variable for setting in known.values()]
    _refuse_others("environment", "variable", variables, known_variables, HOME_VARIABLE)
    _refuse_others("command line", "setting", flags, list(known))
    sections: dict[str, dict[str, Any]] = {setting.section: {} for setting in known.values()}
    sources: dict[str, str] = {}
    for setting in known.values():
        table = file.document.get(setting.section, {})
        if (flag := flags.get(setting.name)) is not None:
            where, read = "command line", partial(setting.read_text, flag)
        elif setting.variable in variables:
            where = f"environment variable {setting.variable}"
            read = partial(setting.read_text, variables[setting.variable])
        elif setting.key in table:
            where = file.where(setting.section, setting.key)
            read = partial(setting.read, table[setting.key])
        elif setting.is_required:
            raise ConfigError(
                f"{setting.name} is not set",
                hint=f"set {setting.key} in [{setting.section}] of {file.path}, "
                f"or {setting.variable}",
            )
        else:
            continue
        try:
            sections[setting.section][setting.key] = read()
        except ConfigError as error:
            raise ConfigError(f"{where}: {setting.name}: {error}", hint=error.hint) from error
        sources[setting.name] = where
    for setting in known.values():
        if setting.same_as:
            values = sections[setting.section]
            values.setdefault(setting.key, values[setting.same_as])
    return Values(sections, sources)


def _refuse_others(
    where: str, what: str, names: Iterable[str], known: list[str], *extra: str
) -> None:
    for name in sorted(names):
        if name not in known:
            refuse_unknown(where, what, name, [*known, *extra])


def format_value(value: object) -> str:
    """Return a value in the form of an environment variable."""
    if isinstance(value, float):
        # Within the ranges allowed here, the shortest exact form never has an exponent.
        return str(int(value)) if value.is_integer() else repr(value)
    return "" if value is None else str(value)


def format_toml(value: object) -> str:
    """Return a value in the form of the file."""
    text = format_value(value)
    # TOML's escapes are those of JSON.
    return text if isinstance(value, float | int) else json.dumps(text, ensure_ascii=False)
