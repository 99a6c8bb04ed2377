"""JSON to dataclasses: fields that a class does not have are passed over, optional ones may be absent."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def decode(kind: type[T], value: Any) -> T:
    """``value``, of a JSON document, as a ``kind``.

    :raises ValueError: It is no such thing; the message tells the field.
    """
    return cast(T, _decode(kind, value, kind.__name__))


def _decode(kind: Any, value: Any, place: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin is Union:
        return None if value is None else _decode(get_args(kind)[0], value, place)
    if origin is list:
        return [
            _decode(get_args(kind)[0], one, f"{place}[{i}]") for i, one in enumerate(_as(list, value, place))
        ]
    if origin is dict:
        return {
            key: _decode(get_args(kind)[1], one, f"{place}.{key}")
            for key, one in _as(dict, value, place).items()
        }
    if dataclasses.is_dataclass(kind):
        return _object(kind, _as(dict, value, place), place)
    if kind is Path:
        return Path(_as(str, value, place))
    if kind is float:
        # JSON has no infinity and no NaN; a number that is neither finite nor there is null.
        return float("nan") if value is None else float(_as((int, float), value, place))
    return _as(kind, value, place)


def _object(kind: Any, value: dict[str, Any], place: str) -> Any:
    hints = get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        # A name that is a word of Python, such as `from`, has an underscore behind it.
        name = field.name.rstrip("_")
        if name in value:
            fields[field.name] = _decode(hints[field.name], value[name], f"{place}.{name}")
        elif get_origin(hints[field.name]) is Union:
            fields[field.name] = None
        else:
            raise ValueError(
                f"the report has no {place}.{name}; expected a command of this package's version"
            )
    return kind(**fields)


def _as(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{place} of the report is {value!r}; expected a command of this package's version")
    return value
