"""Configs: frozen dataclasses whose fields carry their own help, filled from three layers.

Precedence is defaults < file < command line, decided by *was it given*, never by truthiness.
The same parser reads a YAML value and a command-line string, so both give the same errors, and
the command line itself is generated from the same fields (:mod:`scalecli.cli.options`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from scalecli.core.errors import UsageError, did_you_mean

T = TypeVar("T")

MAX_VALUES = 100_000
"""Most values in a config file or a ``--set``."""


@dataclass(frozen=True)
class Option:
    """What a field tells the parsers and the command line about itself."""

    help: str
    """One or two sentences with unit and range."""
    flag: str | None = None
    """Flag such as ``--sizes``; by default the field's name with dashes."""
    cli: bool = True
    """Whether the field has a flag of its own (all fields can be set by file or ``--set``)."""
    argument: bool = False
    """Positional on the command line."""
    repeat: bool = False
    """Given by repeating the flag: a tuple of texts with commas, a mapping of KEY=VALUE."""
    low: float | None = None
    """Smallest legal value (of each element)."""
    high: float | None = None
    """Largest legal value (of each element)."""
    above: float | None = None
    """Exclusive lower bound (of each element)."""
    choices: Callable[[], Sequence[str]] | None = None
    """Legal names of each element; called late, so that it may read a registry."""
    metavar: str | None = None
    """Placeholder in the help text."""
    panel: str | None = None
    """Heading of the help panel."""


def option(default: Any = dataclasses.MISSING, help: str = "", **about: Any) -> Any:
    """Declare a config field; keyword arguments are those of :class:`Option`."""
    return dataclasses.field(default=default, metadata={"option": Option(help, **about)})


def section(cls: type[T], help: str = "") -> Any:
    """Declare a nested config, set from files or by ``--set section.key=value``."""
    return dataclasses.field(default_factory=cls, metadata={"option": Option(help, cli=False)})


def about(field: dataclasses.Field[Any]) -> Option:
    """The :class:`Option` of a config field."""
    found = field.metadata.get("option")
    return found if isinstance(found, Option) else Option("", cli=False)


def flag_of(field: dataclasses.Field[Any]) -> str:
    """The command-line flag of a config field."""
    info = about(field)
    return info.flag or ("" if info.argument else "--") + field.name.replace("_", "-")


def field_types(cls: type) -> dict[str, Any]:
    """Resolved annotations of a config class."""
    return _hints(typing.cast(Hashable, cls))


@functools.cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def make(
    cls: type[T],
    *,
    file: Path | None = None,
    given: Mapping[str, object] | None = None,
    sets: Sequence[str] = (),
) -> T:
    """Build a config from its defaults, a YAML file, ``key=value`` texts and given flags.

    Args:
        cls: a frozen dataclass declared with :func:`option` and :func:`section`.
        file: YAML file with the config's keys (see :func:`find_file`).
        given: values given on the command line by field name; strings are parsed.
        sets: ``dotted.key=value`` texts from ``--set``; values are read as YAML.

    Raises:
        UsageError: unknown key, unreadable file, or a value outside its type or range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        path = find_file(file)
        values = _parse_mapping(cls, load_yaml(path), where=f"{path}: ")
    for text in sets:
        key, equals, raw = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: write key=value, for example --set seed=1")
        nested: Any = _yaml(raw, where=f"--set {key}")
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        values = _merge(values, _parse_mapping(cls, nested, where="--set "))
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, value in (given or {}).items():
        field = fields[name]
        values[name] = _parse_field(field, field_types(cls)[name], value, flag_of(field))
    return _build(cls, values)


def from_mapping(cls: type[T], mapping: Mapping[str, object], *, where: str = "") -> T:
    """Build ``cls`` from parsed JSON or YAML, checking every key, type and range."""
    prefix = f"{where}: " if where else ""
    return _build(cls, _parse_mapping(cls, mapping, where=prefix), prefix)


def to_dict(config: object) -> dict[str, Any]:
    """A config as plain JSON data, nested sections included."""
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))  # type: ignore[call-overload]
    return typing.cast(dict[str, Any], plain)


def configs_dir() -> Path:
    """The folder of shipped config files: inside an installed wheel, or beside the package."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_file(name: Path) -> Path:
    """A config file by path, or a shipped one by its name under ``configs/``.

    Raises:
        UsageError: there is no such file; the message names the closest shipped ones.
    """
    root = configs_dir()
    try:
        for candidate in (name, root / name, (root / name).with_suffix(".yaml")):
            if candidate.is_file():
                return candidate
    except (OSError, ValueError) as error:  # a name too long, or one that is no name, such as /
        raise UsageError(f"--config {_shown(str(name))}: not a usable file name") from error
    shipped = sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    raise UsageError(f"--config {name}: no such file; {did_you_mean(str(name), shipped)}")


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, safe-loaded.

    Raises:
        UsageError: unreadable, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text: {error}") from error
    loaded = _yaml(text, where=str(path))
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"{path}: expected `key: value` lines, found a {type(loaded).__name__}")
    return loaded


def _yaml(text: str, *, where: str) -> Any:
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None and _expanded(node, {}) > MAX_VALUES:
                raise UsageError(f"{where}: more than {MAX_VALUES:,} values, aliases followed")
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (
        yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError,
    ) as error:  # fmt: skip
        # PyYAML's own constructors raise the plain ones: `!!bool x`, `!!timestamp x`.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise UsageError(f"{where}: not valid YAML{place}: {problem}") from error


def _expanded(node: Any, known: dict[int, float]) -> float:
    """Values in a YAML node with every alias followed; infinite where one holds itself.

    Counted before anything is built: a few lines of aliases of aliases can stand for billions.
    """
    if id(node) not in known:
        known[id(node)] = math.inf  # met again within itself
        parts = node.value if isinstance(node.value, list) else ()
        flat = (p for part in parts for p in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = 1 + sum(_expanded(part, known) for part in flat)
    return known[id(node)]


def _build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Call the class on parsed values; nested dicts of given keys become nested configs."""
    built = {name: _nested(field_types(cls)[name], v, prefix) for name, v in values.items()}
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls)  # type: ignore[arg-type]
    missing = [
        flag_of(f)
        for f in fields
        if f.name not in built
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{prefix}missing: {', '.join(missing)}")
    try:
        return cls(**built)
    except ValueError as error:
        raise UsageError(f"{prefix}{error}") from error


def _nested(kind: Any, value: Any, prefix: str) -> Any:
    """A section's or record's keys as its object, also within a tuple of records."""
    if isinstance(value, tuple) and typing.get_origin(kind) is tuple:
        return tuple(_nested(typing.get_args(kind)[0], item, prefix) for item in value)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _build(typing.cast(type, kind), value, prefix)
    return value


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def _parse_mapping(cls: type, mapping: object, *, where: str) -> dict[str, Any]:
    if not isinstance(mapping, Mapping):
        found = _shown(mapping)
        raise UsageError(f"{where.rstrip(': ')}: expected keys and values, found {found}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    parsed: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in fields:
            name = _name(key)
            raise UsageError(f"{where}unknown key '{name}'; {did_you_mean(name, fields)}")
        parsed[key] = _parse_field(fields[key], field_types(cls)[key], value, f"{where}{key}")
    return parsed


def _parse_field(field: dataclasses.Field[Any], kind: Any, value: object, where: str) -> Any:
    parsed = parse(kind, value, where)
    for element in parsed if isinstance(parsed, tuple) else (parsed,):
        _check(about(field), element, where)
    return parsed


def _check(info: Option, element: object, where: str) -> None:
    if isinstance(element, int | float) and not isinstance(element, bool):
        if info.low is not None and element < info.low:
            raise UsageError(f"{where}: {element:g} is too small; the least is {info.low:g}")
        if info.above is not None and element <= info.above:
            raise UsageError(f"{where}: {element:g} must be greater than {info.above:g}")
        if info.high is not None and element > info.high:
            raise UsageError(f"{where}: {element:g} is too large; the most is {info.high:g}")
    if info.choices is not None and isinstance(element, str):
        known = info.choices()
        if element not in known:
            name = _name(element)
            raise UsageError(f"{where}: unknown '{name}'; {did_you_mean(name, known)}")


def parse(kind: Any, value: object, where: str) -> Any:  # noqa: PLR0911, PLR0912
    """Read ``value`` (a string, or JSON/YAML data) as the annotated type ``kind``.

    Raises:
        UsageError: it is not one; the message begins with ``where``.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        (kind,) = [a for a in arguments if a is not type(None)]
        return parse(kind, value, where)
    if origin is Literal:
        if value not in arguments:
            name = _name(value)
            raise UsageError(
                f"{where}: unknown '{name}'; {did_you_mean(name, map(str, arguments))}"
            )
        return value
    if origin is tuple:
        items = _items(value, where)
        if arguments[-1:] == (Ellipsis,):
            return tuple(parse(arguments[0], item, where) for item in items)
        if len(items) != len(arguments):
            raise UsageError(f"{where}: expected {len(arguments)} values, found {len(items)}")
        return tuple(parse(a, item, where) for a, item in zip(arguments, items, strict=True))
    if origin is dict:
        if isinstance(value, list | tuple):
            value = dict(_pair(text, where) for text in value)
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected keys and values, found {_shown(value)}")
        key_kind, item_kind = arguments
        return {
            parse(key_kind, k, where): parse(item_kind, v, f"{where}.{k}") for k, v in value.items()
        }
    if dataclasses.is_dataclass(kind):
        return _parse_mapping(typing.cast(type, kind), value, where=f"{where}.")
    if kind is Any or kind is object:
        return value
    if kind is bool:
        return _bool(value, where)
    if kind is int:
        return _int(value, where)
    if kind is float:
        return _float(value, where)
    if kind is Path:
        return _path(value, where)
    if kind is str:
        if value is None or isinstance(value, Mapping | list | tuple | set):
            raise UsageError(f"{where}: expected a text, found {_shown(value)}")
        try:
            return str(value)
        except ValueError as error:  # a number of thousands of digits
            raise UsageError(f"{where}: expected a text, found {_shown(value)}") from error
    raise TypeError(f"{where}: no parser for {kind}")


def _pair(text: object, where: str) -> tuple[str, str]:
    """One ``KEY=VALUE`` of a repeated flag."""
    key, equals, value = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not equals:
        raise UsageError(f"{where}: write KEY=VALUE, found {_shown(text)}")
    return key, value


def _items(value: object, where: str) -> list[object]:
    if isinstance(value, str):
        items: list[object] = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, list | tuple):
        items = list(value)
    else:
        items = [value]
    if not items and value not in ([], ()):
        raise UsageError(f"{where}: the list is empty")
    return items


def _path(value: object, where: str) -> Path:
    if not isinstance(value, str | Path):
        raise UsageError(f"{where}: expected a path, found {_shown(value)}")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~nobody
        raise UsageError(f"{where}: {value}: no such home folder") from error


def _bool(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "yes", "on", "false", "no", "off"):
        return value.lower() in ("true", "yes", "on")
    raise UsageError(f"{where}: expected true or false, found {_shown(value)}")


_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+))(?:[eE]([+-]?\d+))?\s*([kKMG]?)")
_EXPONENTS = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9}
_LARGEST = 2**63


def _int(value: object, where: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,19}\s*", value):
        value = int(value)  # exact, where a float holds 53 bits
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = value if isinstance(value, int) and whole else _number(value)
    if number is None or number != number // 1 or abs(number) > _LARGEST:
        raise UsageError(
            f"{where}: expected a whole number such as 1000, 1e3 or 1k, found {_shown(value)}"
        )
    return int(number)


def _float(value: object, where: str) -> float:
    number = _number(value)
    if number is None:
        raise UsageError(f"{where}: expected a number, found {_shown(value)}")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        finite = abs(value) <= sys.float_info.max  # false for NaN too
        return float(value) if finite else None
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        # One conversion, rounded once: 1.005k is 1005, which 1.005 * 1000 is not.
        exponent = int(match[2] or 0) + _EXPONENTS[match[3]]
        number = float(f"{match[1].replace('_', '')}e{exponent}")
    except ValueError:
        return None
    return number if abs(number) != float("inf") else None


def _name(value: object) -> str:
    """A key or name as an error may show it."""
    return value if isinstance(value, str) and len(value) <= 60 else _shown(value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a deep nest
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…'"
