"""The shape of a JSON document: which keys it has and of which type each is, without what they hold.

Numbers are "number", words "text", true and false "truth". A list is one element that stands for all of its own; a
key that some of them lack ends with "?". "text or nothing" is of a key that may be null.
"""

from __future__ import annotations

from typing import Any

_NAMES = {bool: "truth", int: "number", float: "number", str: "text", type(None): "nothing"}


def shape_of(document: Any) -> Any:
    """The shape, itself a JSON document."""
    if isinstance(document, dict):
        return {key: shape_of(value) for key, value in document.items()}
    if isinstance(document, list):
        return [merged([shape_of(each) for each in document])] if document else []
    return _NAMES[type(document)]


def merged(shapes: list[Any]) -> Any:
    """One shape that fits all of ``shapes``."""
    if all(isinstance(each, dict) for each in shapes):
        keys = dict.fromkeys(key.removesuffix("?") for each in shapes for key in each)
        return {_name(key, shapes): merged(_under(key, shapes)) for key in keys}
    if all(isinstance(each, list) for each in shapes):
        elements = [element for each in shapes for element in each]
        return [merged(elements)] if elements else []
    plain = {word for each in shapes if isinstance(each, str) for word in each.split(" or ")}
    nested = [each for each in shapes if not isinstance(each, str)]
    if nested:
        return {"nothing, or": merged(nested)} if plain == {"nothing"} else {"one of": [*sorted(plain), merged(nested)]}
    return " or ".join(sorted(plain, key=lambda word: (word == "nothing", word)))


def _name(key: str, shapes: list[Any]) -> str:
    return key if all(key in each for each in shapes) else f"{key}?"


def _under(key: str, shapes: list[Any]) -> list[Any]:
    return [each[name] for each in shapes for name in (key, f"{key}?") if name in each]
