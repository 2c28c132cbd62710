"""Tables from outside (TOML, JSON, plugin options) into frozen values; nothing is ignored silently.

Used by the agent for its own configuration and by the manager for its configuration, declarative files and
the option tables of plugins, so that every bad key anywhere reads the same.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

from holdfast_agent.errors import ConfigInvalid, ConfigNotFound, ConfigUnreadable, UnknownConfigKey

T = TypeVar("T")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of what users give a name; errors tell it in words."""
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "",  # what may be left out
    "object": "a table",
    "str": "text",
}
_TYPES = re.compile(rf"`((?:{'|'.join(_WORDS)})(?: \| (?:{'|'.join(_WORDS)}))*)`")
NOT_DECODED = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises for bytes that are not what they must be: its own errors, those for text that is not UTF-8, and
that for nesting without end."""


def read_toml(path: Path, advice: str = "") -> dict[str, Any]:
    """Read a TOML 1.0 file. Raises :class:`ConfigNotFound` or :class:`ConfigUnreadable`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigNotFound(file=str(path), advice=advice) from None
    except OSError as error:
        raise ConfigUnreadable(file=str(path), reason=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # TOML's own errors are ValueErrors, and so are the others
        raise ConfigUnreadable(file=str(path), reason=str(error)) from error


def convert(table: Any, to: type[T], source: str) -> T:
    """Turn ``table`` into the msgspec struct ``to``.

    ``source`` names where the table came from (a file name, "options of job web") and begins every error.
    Raises :class:`UnknownConfigKey` with the nearest known key, or :class:`ConfigInvalid` with the key's path.
    """
    _refuse_unknown_keys(table, to, source, "")
    try:
        return msgspec.convert(table, to, strict=True)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        key = where.rstrip("`").lstrip(".")
        missing = _MISSING.fullmatch(reason)
        if missing is not None:
            key, reason = f"{key}.{missing[1]}".lstrip("."), "it is missing, and has no default"
        raise ConfigInvalid(file=source, key=key or "as a whole", reason=_in_words(reason)) from error


def _in_words(reason: str) -> str:
    """In the words of whoever wrote the table, and of no programming language."""
    if repr(NAME_PATTERN) in reason:
        return "a name is 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or a digit"
    return _TYPES.sub(lambda found: " or ".join(_WORDS[name] for name in found[1].split(" | ") if _WORDS[name]), reason)


def _refuse_unknown_keys(value: Any, to: Any, source: str, path: str) -> None:
    struct, element = _shape(to)
    if struct is not None and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            if key not in fields:
                close = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
                nearest = f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(sorted(fields))}"
                raise UnknownConfigKey(file=source, key=here, nearest=nearest)
            _refuse_unknown_keys(inner, fields[key], source, here)
    elif element is not None and isinstance(value, list):
        for position, inner in enumerate(value):
            _refuse_unknown_keys(inner, element, source, f"{path}[{position}]")
    elif element is not None and isinstance(value, dict):
        for key, inner in value.items():
            _refuse_unknown_keys(inner, element, source, f"{path}.{key}" if path else str(key))


def _shape(to: Any) -> tuple[type[msgspec.Struct] | None, Any]:
    """The struct behind a type, or the element type of a list, tuple or dict; (None, None) for anything else."""
    origin = get_origin(to)
    if origin in (Union, UnionType):
        for option in get_args(to):
            struct, element = _shape(option)
            if struct is not None or element is not None:
                return struct, element
        return None, None
    if origin in (list, tuple, set, frozenset):
        return None, get_args(to)[0]
    if origin is dict:
        return None, get_args(to)[1]
    if isinstance(to, type) and issubclass(to, msgspec.Struct):
        return to, None
    return None, None
