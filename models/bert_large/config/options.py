"""One definition per setting: a dataclass field with default, help, unit, range, option and variable.

The command line, environment variables, checks, `--help`, the reference page and the shell scripts' lists derive from
fields made by `setting()`. This helper is our own: tyro, jsonargparse and pydantic-settings were tried on
`--learning-rate`, `--no-do-lower-case` and BATCH_SIZE. None of them can do all three: report a value's origin, report
all problems on one line, and offer `--no-…` for a boolean whose default is None. Each would need a layer as large as
this module.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_large.errors import InputError

FROM_ENVIRONMENT = "--from-environment"
"""Option of the quickstart scripts. Without it, no environment variable changes what a command line means."""
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_FLOAT = 3.4e38
"""Numbers beyond are infinite in fp32, which training computes in."""
SMALLEST_FLOAT = 1.2e-38
"""The smallest normal number of fp32, rounded up: smaller ones lose digits or become 0."""
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting: what is known of a dataclass field."""

    name: str
    kind: type
    optional: bool
    """Whether None is a value."""
    default: Any
    """`dataclasses.MISSING` for a setting that must be given."""
    help: str
    unit: str = ""
    variable: str = ""
    """Environment variable: by default the option's name in capitals; empty for none."""
    aliases: tuple[str, ...] = ()
    """Other names of the variable; `variable` wins when both are set."""
    option: str = ""
    """Command line option without dashes: by default the field's name; empty for a setting that is a variable only."""
    choices: tuple[str, ...] = ()
    within: str = "(-inf, inf)"
    """Allowed range as an interval: "(0, 1]" is above 0 and at most 1."""
    default_text: str = ""
    """The default in words, where it depends on something else."""
    deferred: bool = False
    """Whether a recipe or task may set the value: without an option or variable the parsed value is None."""
    alternative: str = ""
    """Another setting that cannot be given together with this one; if this one is required, either is enough."""
    path: str = ""
    """For paths: "input" must exist, "output" is a folder that the scripts make."""
    words: tuple[str, ...] = ()
    """Values of a path setting that are words, not paths."""

    @property
    def default_is_missing(self) -> bool:
        """Whether the field has no default."""
        return self.default is dataclasses.MISSING

    @property
    def required(self) -> bool:
        """Whether the command line or the environment must give a value."""
        return self.default_is_missing and not self.deferred

    @property
    def attribute(self) -> str:
        """Attribute of the parsed arguments."""
        return (self.option or self.name).replace("-", "_")

    @property
    def is_negative_flag(self) -> bool:
        """Whether the option turns off what is on by default: `--no-shuffle` for `shuffle`."""
        return self.kind is bool and self.option.startswith("no-")

    def label(self, origin: str = "option") -> str:
        """Return the name that an error message uses for a value of this origin."""
        if self.variable and (origin == "variable" or not self.option):
            return self.variable
        return f"--{self.option}" if self.option else self.name

    def describe_default(self) -> str:
        """Return the default in readable form: the empty string if there is nothing to say."""
        if self.default_text:
            return self.default_text
        if self.required:
            return f"required, or --{self.alternative.replace('_', '-')}" if self.alternative else "required"
        default = False if self.is_negative_flag else self.default
        if default in (None, "") or self.default_is_missing:
            return ""
        return f"{default:g}" if self.kind is float else describe_value(default)

    def describe_values(self) -> str:
        """Return the allowed values in readable form, such as "a number above 0"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is bool:
            return "true or false"
        kind = {int: "an integer", float: "a finite number"}.get(self.kind, "a value")
        within = re.sub(r"\binf\)$", f"{_LARGEST_INTEGER}]", self.within) if self.kind is int else self.within
        return f"{kind} {_describe_interval(within)}".rstrip()

    def convert(self, text: str) -> Any:
        """Return the value that a word of the command line or a variable means; raises `ValueError`."""
        if self.choices:
            return next((choice for choice in self.choices if choice.lower() == text.lower()), text)
        if self.kind is bool:
            if text.lower() not in BOOLEANS:
                raise ValueError(text)
            return BOOLEANS[text.lower()]
        if self.kind in (int, float) and ("_" in text or not text.isascii()):
            raise ValueError(text)  # Python reads 1_0 and the digits of other scripts
        if self.kind is int:
            try:
                return int(text)
            except ValueError:
                if not float(text).is_integer():
                    raise
                return int(float(text))
        return self.kind(text)

    def is_allowed(self, value: Any) -> bool:
        """Return whether a value has the setting's type and lies in its range."""
        if value is None:
            return self.optional
        if self.choices:
            return value in self.choices
        if self.kind is bool:
            return isinstance(value, bool)
        if self.kind not in (int, float):
            return True
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else (int, float)):
            return False
        if not abs(value) <= (_LARGEST_INTEGER if self.kind is int else _LARGEST_FLOAT):  # true of nan too
            return False
        low, high = (float(end) for end in self.within[1:-1].split(","))
        above_low = value > low if self.within[0] == "(" else value >= low
        return above_low and (value < high if self.within[-1] == ")" else value <= high)

    @property
    def parsed_default(self) -> Any:
        """Value of the parsed arguments when neither an option nor a variable gives one."""
        if self.deferred or self.required:
            return None
        return not self.default if self.is_negative_flag else self.default


def setting(default: Any = dataclasses.MISSING, text: str = "", **details: Any) -> Any:
    """Return a dataclass field that is a setting; `details` are fields of `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": {"help": text, **details}})


def option(default: Any = dataclasses.MISSING, text: str = "", **details: Any) -> Any:
    """Return a setting that only the command line gives: it has no variable."""
    return setting(default, text, variable="", **details)


@functools.cache
def settings_of(config: type) -> tuple[Setting, ...]:
    """Return the settings of a configuration dataclass, in the order of its fields."""
    hints = typing.get_type_hints(config)
    return tuple(
        _make_setting(field, hints[field.name]) for field in dataclasses.fields(config) if "setting" in field.metadata
    )


def _make_setting(field: dataclasses.Field[Any], hint: Any) -> Setting:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    details = {"option": field.name.replace("_", "-"), **field.metadata["setting"]}
    details.setdefault("variable", (details["option"] or field.name).replace("-", "_").upper())
    return Setting(
        name=field.name,
        kind=next(kind for kind in kinds if kind is not type(None)),
        optional=type(None) in kinds,
        default=field.default,
        **details,
    )


def find_problems(config: type, values: Mapping[str, Any]) -> list[str]:
    """Return a message for each value that is not allowed; `values` are named as the fields."""
    return [
        f"{setting.label()} is {_quote(values[setting.name])}, expected {setting.describe_values()}"
        for setting in settings_of(config)
        if setting.name in values and not setting.is_allowed(values[setting.name])
    ]


def check_fields(config: Any, problems: Iterable[str] = ()) -> None:
    """Raise `InputError` with every wrong value of a configuration, and with `problems` if the values are right."""
    found = find_problems(type(config), vars(config)) or list(problems)
    if found:
        raise InputError("; ".join(found))


def describe_value(value: Any) -> str:
    """Return a setting's value in readable form: `none` for None, `true` for True."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _quote(value: Any) -> str:
    return repr(value) if isinstance(value, str) else describe_value(value)


def _describe_interval(interval: str) -> str:
    low, high = (end.strip() for end in interval[1:-1].split(","))
    if interval[0] == "[" and interval[-1] == "]" and low != "-inf":
        return f"from {low} to {high}"
    parts = []
    if low != "-inf":
        parts.append(f"above {low}" if interval[0] == "(" else f"at least {low}")
    if high != "inf":
        parts.append(f"below {high}" if interval[-1] == ")" else f"at most {high}")
    return " and ".join(parts)


class CommandParser(argparse.ArgumentParser):
    """A parser whose settings are converted and checked together: one line reports everything that is wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self.settings: list[Setting] = []
        self.checks: list[Callable[[argparse.Namespace], list[str]]] = []
        """Functions that return what is wrong with the settings together; a wrong setting is None."""

    def error(self, message: str) -> typing.NoReturn:
        """Print one line, without the usage, which has dozens of lines for some commands, and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help lists the options)\n")

    def parse_known_args(  # type: ignore[override]  # argparse's overloads are for namespaces of other classes
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, then add the environment's values where that is asked for, and convert and check all of them."""
        arguments, unknown = super().parse_known_args(args, namespace)
        problems = []
        if unknown:
            options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            problems.append(f"unrecognized arguments: {', '.join(map(self._add_nearest, options or unknown))}")
        if self.settings:
            problems += _resolve(self.settings, arguments)
            problems += [problem for check in self.checks for problem in check(arguments)]
        if problems:
            self.error("; ".join(problems))
        return arguments, []

    def settings_of_command(self, name: str) -> tuple[Setting, ...]:
        """Return the settings of a subcommand's parser."""
        commands = next(action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return tuple(commands.choices[name].settings)

    def _add_nearest(self, word: str) -> str:
        nearest = find_nearest(word, self._option_string_actions)
        return f"{word} (did you mean {nearest}?)" if nearest else word


def find_nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelled one most resembles, or None if it resembles none."""
    import difflib  # only in error messages

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)), None)


def add_settings(parser: CommandParser, config: type, only: Sequence[str] = (), title: str | None = None) -> None:
    """Add an option for each setting of a dataclass, or for those named in `only`."""
    group = parser.add_argument_group(title) if title else parser
    for item in settings_of(config):
        if (only and item.name not in only) or not item.option:
            continue
        words: dict[str, Any] = {"help": describe_option(item).replace("%", "%%"), "dest": item.attribute}
        if item.kind is bool:
            group.add_argument(f"--{item.option}", **_boolean_action(item), **words)
            if item.deferred:
                group.add_argument(f"--no-{item.option}", action="store_const", const=False, dest=item.attribute,
                                   help=argparse.SUPPRESS)  # fmt: skip
        else:
            metavar = {int: "N", float: "X", Path: "PATH"}.get(item.kind, "NAME")
            group.add_argument(f"--{item.option}", metavar=metavar, **words)
        parser.settings.append(item)
    has_variables = any(item.variable for item in settings_of(config))
    if has_variables and FROM_ENVIRONMENT not in parser._option_string_actions:
        explanation = "read settings that the command line does not give from variables, as the quickstart scripts do"
        parser.add_argument(FROM_ENVIRONMENT, action="store_true", help=explanation)


def _boolean_action(item: Setting) -> dict[str, Any]:
    if item.is_negative_flag or (item.default is False and not item.variable and not item.deferred):
        return {"action": "store_const", "const": True}
    if item.deferred:
        return {"nargs": "?", "const": "true", "metavar": "BOOL"}
    return {"action": argparse.BooleanOptionalAction}


def describe_option(item: Setting) -> str:
    """Return the help of an option: its sentence, allowed values, default and variable."""
    details = []
    if item.unit:
        details.append(f"in {item.unit}")
    if item.choices:
        details.append(", ".join(item.choices))
    if item.describe_default():
        text = item.describe_default()
        details.append(text if item.required else f"default: {text}")
    if item.variable:
        details.append(f"variable {item.variable}")
    return f"{item.help} ({'; '.join(details)})" if details else item.help


def _resolve(settings: Sequence[Setting], arguments: argparse.Namespace) -> list[str]:
    """Replace the words of each setting in `arguments` by its value and return what is wrong.

    `arguments.origins` maps the attributes that were given to "option" or "variable". An option wins over a variable,
    even over the variable of the setting's alternative.
    """
    environment = os.environ if getattr(arguments, FROM_ENVIRONMENT[2:].replace("-", "_"), False) else {}
    given: dict[str, tuple[Any, str]] = {}
    for item in settings:
        word = getattr(arguments, item.attribute)
        if word is not None:
            given[item.attribute] = (word, "option")
        elif variable := next((name for name in (item.variable, *item.aliases) if environment.get(name)), None):
            given[item.attribute] = (environment[variable], "variable")
    problems = _settle_alternatives(settings, given)
    for item in settings:
        word, origin = given.get(item.attribute, (None, "default"))
        if origin != "default":
            value, problem = _read(item, word, origin)
            problems += problem
        else:
            value = item.parsed_default
        setattr(arguments, item.attribute, value)
    arguments.origins = {name: origin for name, (_, origin) in given.items()}
    return problems


def _read(item: Setting, word: Any, origin: str) -> tuple[Any, list[str]]:
    """Return the value of a word and what is wrong with it; argparse has made flags True or False already."""
    try:
        value = item.convert(word) if isinstance(word, str) else word
    except (ValueError, OverflowError):
        value, allowed = word, False
    else:
        allowed = item.is_allowed(value)
    if allowed:
        return value, []
    return None, [f"{item.label(origin)} is {_quote(value)}, expected {item.describe_values()}"]


def _settle_alternatives(settings: Sequence[Setting], given: dict[str, tuple[Any, str]]) -> list[str]:
    """Drop variables that an option replaces; return what is missing and what cannot be given together."""
    problems = []
    known = {item.name: item for item in settings}
    for item in settings:
        other = known.get(item.alternative)
        name, other_name = item.attribute, other.attribute if other else ""
        if name in given and other is not None and other_name in given:
            if given[name][1] == given[other_name][1]:
                labels = f"{item.label(given[name][1])} and {other.label(given[other_name][1])}"
                problems.append(f"{labels} are both given, expected one of them")
            else:
                del given[name if given[name][1] == "variable" else other_name]
        elif item.required and name not in given and other_name not in given:
            either = f" or --{other.option}" if other is not None else ""
            problems.append(f"--{item.option}{either} is required" + (f" ({item.help})" if item.help else ""))
    return problems


def check_options(arguments: argparse.Namespace, way: str, needed: Iterable[str], foreign: Iterable[str]) -> None:
    """Raise `InputError` when an option that `way` needs is missing, or when one is given that `way` would ignore.

    Options are named by their attribute of `arguments`; None means that an option was not given.
    """
    missing = [_option(name) for name in needed if getattr(arguments, name) is None]
    if missing:
        raise InputError(f"{way} needs {' and '.join(missing)}")
    ignored = [_option(name) for name in foreign if getattr(arguments, name) is not None]
    if ignored:
        raise InputError(f"{', '.join(ignored)} cannot be given with {way}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
