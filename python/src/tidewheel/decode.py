"""JSON values to Python values by annotation. One decoder is built per type and kept; None stands for "as it is".

>>> from typing import Dict, List
>>> decoder_for(Dict[str, List[int]])({"a": [1, 2]})
{'a': [1, 2]}
>>> decoder_for(Dict[str, List[int]])({"a": [1, "2"]})
Traceback (most recent call last):
tidewheel.errors.InputError: input.a[1]: expected integer, got string
"""

from __future__ import annotations

import collections.abc as abc
import enum
import sys
import types
import typing

from . import _scalars
from ._scalars import expected, string
from .errors import InputError

if typing.TYPE_CHECKING:
    import datetime
    import decimal
    import uuid
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Decoder = Callable[[Any], Any]

_UNION_TYPES = (typing.Union, getattr(types, "UnionType", typing.Union))
_NONE = type(None)
_WRAPPERS = {"Annotated", "Required", "NotRequired", "ReadOnly", "Final", "ClassVar"}


def decoder_for(hint: "Any") -> "Decoder":
    """The decoder of a type. Raises TypeError for a type that cannot come from JSON."""
    found = optional_decoder(hint)
    return found if found is not None else _as_it_is


def optional_decoder(hint: "Any") -> "Optional[Decoder]":
    """The decoder of a type, or None where the value passes as it is."""
    try:
        if hint in _CACHE:
            return _CACHE[hint]
    except TypeError:  # an unhashable hint, such as Literal[[]]
        return _build(hint)
    # A type that contains itself finds this stand-in while its own decoder is still being built.
    holder: "List[Decoder]" = []
    _CACHE[hint] = lambda value: holder[0](value)
    try:
        built = _build(hint)
    except BaseException:
        del _CACHE[hint]
        raise
    holder.append(built if built is not None else _as_it_is)
    _CACHE[hint] = built
    return built


_CACHE: "Dict[Any, Optional[Decoder]]" = {}


def _as_it_is(value: "Any") -> "Any":
    return value


def is_typed_dict(hint: "Any") -> bool:
    return isinstance(hint, type) and issubclass(hint, dict) and hasattr(hint, "__total__")


def is_model(hint: "Any") -> bool:
    """A class that validates itself in the way of pydantic; asked for its methods, so that nothing is imported."""
    return isinstance(hint, type) and hasattr(hint, "model_validate") and hasattr(hint, "model_dump")


def is_named_tuple(hint: "Any") -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")


def unwrap(hint: "Any") -> "Any":
    """The type inside Annotated, Required, NotRequired, Final and NewType."""
    while True:
        if hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif hasattr(hint, "__metadata__"):
            hint = hint.__origin__
        elif getattr(typing.get_origin(hint), "_name", None) in _WRAPPERS:
            hint = typing.get_args(hint)[0]
        else:
            return hint


def _build(hint: "Any") -> "Optional[Decoder]":
    hint = unwrap(hint)
    if hint is typing.Any or hint is object or isinstance(hint, typing.TypeVar):
        return None
    if hint is None or hint is _NONE:
        return _scalars.null
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in _UNION_TYPES:
        return _union(args)
    if origin is typing.Literal:
        return _literal(args)
    kind = origin or hint
    if not isinstance(kind, type):
        raise TypeError(f"{hint!r} cannot come from JSON")
    if kind is hint and kind in _scalars.DECODERS:
        return _scalars.DECODERS[kind]
    library = _LIBRARY.get(library_name(kind))
    if library is not None:
        return library
    if is_model(kind):
        return _model(hint)
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    if hasattr(kind, "__dataclass_fields__"):
        return _dataclass(hint, kind)
    if is_typed_dict(kind):
        return _typed_dict(kind)
    if is_named_tuple(kind):
        return _named_tuple(kind)
    if kind is dict or kind in (abc.Mapping, abc.MutableMapping):
        return _mapping(args)
    if kind in (list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection):
        return _array(args, None)
    if kind in (set, abc.Set, abc.MutableSet):
        return _array(args, set)
    if kind is frozenset:
        return _array(args, frozenset)
    if kind is tuple:
        return _tuple(args)
    if is_path(kind):
        return lambda value: kind(string(value))  # type: ignore[call-arg]
    raise TypeError(
        f"{getattr(kind, '__qualname__', kind)} cannot come from JSON; use a dataclass, a TypedDict, an Enum or a plain type"
    )


# -- scalars ---------------------------------------------------------------------------------------------------------


def _decimal(value: "Any") -> "decimal.Decimal":
    if type(value) in (int, float):
        value = repr(value)
    elif type(value) is not str:
        raise expected("decimal number as a string", value)
    import decimal

    try:
        number = decimal.Decimal(value)
    except decimal.InvalidOperation:
        raise InputError(f"{_short(value)} is not a decimal number") from None
    if not number.is_finite():
        raise InputError(f"{_short(value)} is not a finite number")
    return number


def _uuid(value: "Any") -> "uuid.UUID":
    from uuid import UUID

    try:
        return UUID(string(value))
    except ValueError:
        raise InputError(f"{_short(value)} is not a UUID") from None


# Before 3.11 fromisoformat knows neither Z nor fractions of other than 3 or 6 digits.
_TIME_TAIL = r"(.*:\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:?\d\d)?\Z"


def _iso(value: "Any", kind: "Any", what: str) -> "Any":
    import re

    text = string(value)
    match = re.match(_TIME_TAIL, text, re.IGNORECASE)
    if match:
        head, fraction, zone = match.groups()
        zone = "" if not zone else "+00:00" if zone in "Zz" else zone if ":" in zone else zone[:3] + ":" + zone[3:]
        text = head + (f".{fraction[:6]:0<6}" if fraction else "") + zone
    try:
        return kind.fromisoformat(text)
    except ValueError:
        raise InputError(f"{_short(value)} is not {what}") from None


def _datetime(value: "Any") -> "datetime.datetime":
    from datetime import datetime

    return typing.cast("datetime", _iso(value, datetime, "a date and time in ISO 8601"))


def _date(value: "Any") -> "datetime.date":
    from datetime import date

    return typing.cast("date", _iso(value, date, "a date in ISO 8601"))


def _time(value: "Any") -> "datetime.time":
    from datetime import time

    return typing.cast("time", _iso(value, time, "a time in ISO 8601"))


_ISO_DURATION = (
    r"(-)?P(?=\d|T\d)(?:(\d+(?:\.\d+)?)W)?(?:(\d+(?:\.\d+)?)D)?"
    r"(?:T(?=\d)(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+)(?:\.(\d+))?S)?)?\Z"
)


def _timedelta(value: "Any") -> "datetime.timedelta":
    import re
    from datetime import timedelta

    text = string(value)
    match = re.match(_ISO_DURATION, text)
    try:
        if match:
            sign, weeks, days, hours, minutes, seconds, fraction = match.groups()
            micros = int(f"{(fraction or '0')[:6]:0<6}")  # not through float: microseconds have to come back as they went
            length = timedelta(
                weeks=float(weeks or 0), days=float(days or 0), hours=float(hours or 0), minutes=float(minutes or 0),
                seconds=int(seconds or 0), microseconds=micros,
            )
            return -length if sign else length
        from .options import duration_ms

        return timedelta(milliseconds=duration_ms(text))
    except (ValueError, OverflowError):
        raise InputError(f"{_short(value)} is not a duration such as PT5M or 1h30m") from None


#: By module and name: whoever annotates with such a type has loaded its module, and nobody else should have to.
_LIBRARY: "Dict[Any, Decoder]" = {
    "decimal.Decimal": _decimal,
    "uuid.UUID": _uuid,
    "datetime.datetime": _datetime,
    "datetime.date": _date,
    "datetime.time": _time,
    "datetime.timedelta": _timedelta,
}


def library_name(kind: "Any") -> "Optional[str]":
    """``module.name`` of a class that its module has under this name; None for every other."""
    module, name = getattr(kind, "__module__", None), getattr(kind, "__name__", None)
    if getattr(sys.modules.get(module or ""), name or "", None) is kind:
        return f"{module}.{name}"
    return None


def is_path(kind: "Any") -> bool:
    """Whether it is a class of `pathlib`."""
    pathlib = sys.modules.get("pathlib")
    return pathlib is not None and isinstance(kind, type) and issubclass(kind, pathlib.PurePath)


def _short(value: "Any") -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# -- containers ------------------------------------------------------------------------------------------------------


def _array(args: "Tuple[Any, ...]", make: "Optional[Callable[[Any], Any]]") -> "Decoder":
    item = optional_decoder(args[0]) if args else None

    def decode(value: "Any") -> "Any":
        if type(value) is not list:
            raise expected("array", value)
        out = value
        if item is not None:
            out = []
            try:
                for element in value:
                    out.append(item(element))
            except InputError as error:
                raise error.at(len(out))
        if make is None:
            return out
        try:
            return make(out)
        except TypeError:
            raise InputError("the elements of a set have to be plain values") from None

    return decode


def _tuple(args: "Tuple[Any, ...]") -> "Decoder":
    if not args or len(args) == 2 and args[1] is Ellipsis:
        return _array(args[:1], tuple)
    items = [decoder_for(arg) for arg in args if arg != ()]

    def decode(value: "Any") -> "Any":
        if type(value) is not list:
            raise expected("array", value)
        if len(value) != len(items):
            raise InputError(f"expected {len(items)} elements, got {len(value)}")
        return tuple(_element(item, element, i) for i, (item, element) in enumerate(zip(items, value)))

    return decode


def _element(item: "Decoder", value: "Any", step: "Any") -> "Any":
    try:
        return item(value)
    except InputError as error:
        raise error.at(step)


def _mapping(args: "Tuple[Any, ...]") -> "Decoder":
    key = None if not args or args[0] is str else _key_decoder(args[0])
    item = optional_decoder(args[1]) if args else None

    def decode(value: "Any") -> "Any":
        if type(value) is not dict:
            raise expected("object", value)
        if key is None and item is None:
            return value
        out = {}
        for name, element in value.items():
            try:
                out[name if key is None else key(name)] = element if item is None else item(element)
            except InputError as error:
                raise error.at(name)
        return out

    return decode


def _key_decoder(hint: "Any") -> "Optional[Decoder]":
    """Keys of JSON objects are texts; numbers among the keys are read back from them."""
    hint = unwrap(hint)
    if hint in (int, float):
        def decode(name: str) -> "Any":
            try:
                return hint(name)
            except ValueError:
                raise InputError(f"expected a key that is {'an integer' if hint is int else 'a number'}") from None

        return decode
    return optional_decoder(hint)


def _union(args: "Tuple[Any, ...]") -> "Optional[Decoder]":
    rest = [arg for arg in args if arg is not _NONE]
    decoders = [optional_decoder(arg) for arg in rest]
    if None in decoders:
        return None  # one member takes anything
    if len(rest) == 1:
        only = decoders[0]
        assert only is not None
        return lambda value: None if value is None else only(value)
    nullable = len(rest) < len(args)
    # An exact match of the JSON type goes first: 1 is an int for Union[float, int], whatever the order.
    exact = {kind: _scalars.DECODERS[kind] for kind in (str, int, float, bool) if kind in rest and kind is not str}
    names = " or ".join([type_name(arg) for arg in rest] + (["null"] if nullable else []))

    def decode(value: "Any") -> "Any":
        if value is None and nullable:
            return None
        direct = exact.get(type(value))
        if direct is not None:
            return direct(value)
        deepest: "Optional[InputError]" = None
        for one in decoders:
            try:
                return one(value)  # type: ignore[misc]
            except InputError as error:
                if error.path and (deepest is None or len(error.path) > len(deepest.path)):
                    deepest = error
        # The member that got furthest into the value is the one the author most likely meant.
        raise deepest if deepest is not None else expected(names, value)

    return decode


def _literal(args: "Tuple[Any, ...]") -> "Decoder":
    choices = {(_plain(choice), type(_plain(choice))): choice for choice in args}
    names = ", ".join(repr(_plain(choice)) for choice in args)

    def decode(value: "Any") -> "Any":
        try:
            return choices[value, type(value)]
        except (KeyError, TypeError):
            raise InputError(f"{_short(value)} is none of {names}") from None

    return decode


def _plain(choice: "Any") -> "Any":
    from .encode import enum_json

    return enum_json(choice) if isinstance(choice, enum.Enum) else choice


def _enum(kind: "Any") -> "Decoder":
    return _literal(tuple(kind))


def _model(hint: "Any") -> "Decoder":
    def decode(value: "Any") -> "Any":
        try:
            return hint.model_validate(value)
        except ValueError as error:  # pydantic's ValidationError is one
            raise InputError(str(error)) from error

    return decode


# -- records ---------------------------------------------------------------------------------------------------------


def resolve_hints(owner: "Any", label: str) -> "Dict[str, Any]":
    """The annotations of a class or function with their forward references looked up."""
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except NameError as error:
        raise TypeError(f"{label}: an annotation cannot be resolved: {error}") from None
    except TypeError as error:
        old = " (X | Y needs Python 3.10; write Optional or Union)" if sys.version_info < (3, 10) else ""
        raise TypeError(f"{label}: an annotation cannot be resolved: {error}{old}") from None


def _type_vars(hint: "Any", kind: "Any") -> "Dict[Any, Any]":
    """What the parameters of a generic class stand for in this use of it."""
    return dict(zip(getattr(kind, "__parameters__", ()), typing.get_args(hint)))


def dataclass_fields(hint: "Any", kind: "Any") -> "List[Tuple[str, Any, bool]]":
    """Name, type and whether it is required, of each field that the constructor takes."""
    import dataclasses

    hints = resolve_hints(kind, kind.__qualname__)
    known = _type_vars(hint, kind)
    return [
        (f.name, known.get(hints[f.name], hints[f.name]), f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING)
        for f in dataclasses.fields(kind)
        if f.init
    ]


def typed_dict_fields(kind: "Any") -> "List[Tuple[str, Any, bool]]":
    hints = resolve_hints(kind, kind.__qualname__)
    required = getattr(kind, "__required_keys__", frozenset(hints))
    out = []
    for name, hint in hints.items():
        # With postponed annotations the class itself does not see NotRequired; the resolved hint does.
        wrapper = getattr(typing.get_origin(hint), "_name", "")
        out.append((name, hint, wrapper == "Required" or name in required and wrapper != "NotRequired"))
    return out


def _record(fields: "List[Tuple[str, Any, bool]]", make: "Callable[[Dict[str, Any]], Any]") -> "Decoder":
    decoders = {name: optional_decoder(hint) for name, hint, _ in fields}
    required = [name for name, _, needed in fields if needed]

    def decode(value: "Any") -> "Any":
        if type(value) is not dict:
            raise expected("object", value)
        out = {}
        for name, element in value.items():
            if name not in decoders:
                raise unknown_field(name, decoders)
            decoder = decoders[name]
            out[name] = element if decoder is None else _element(decoder, element, name)
        for name in required:
            if name not in out:
                raise InputError("is missing").at(name)
        return make(out)

    return decode


def unknown_field(name: str, known: "typing.Iterable[str]") -> InputError:
    """The error for a field that is not there, with the nearest one that is."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1)
    return InputError("unknown field" + (f"; did you mean {near[0]!r}?" if near else "")).at(name)


def _dataclass(hint: "Any", kind: "Any") -> "Decoder":
    def make(fields: "Dict[str, Any]") -> "Any":
        try:
            return kind(**fields)
        except InputError:
            raise
        except (TypeError, ValueError) as error:  # what __post_init__ refuses is wrong input, not a wrong program
            raise InputError(str(error) or type(error).__name__) from error

    return _record(dataclass_fields(hint, kind), make)


def _typed_dict(kind: "Any") -> "Decoder":
    return _record(typed_dict_fields(kind), _as_it_is)


def _named_tuple(kind: "Any") -> "Decoder":
    hints = resolve_hints(kind, kind.__qualname__)
    defaults = kind._field_defaults
    fields = [(name, hints.get(name, typing.Any), name not in defaults) for name in kind._fields]
    record = _record(fields, lambda out: kind(**out))

    def decode(value: "Any") -> "Any":
        if type(value) is list:
            if len(value) > len(fields):
                raise InputError(f"expected {len(fields)} elements, got {len(value)}")
            value = dict(zip(kind._fields, value))
        return record(value)

    return decode


def type_name(hint: "Any") -> str:
    """What a type is called in messages: by its JSON name where it has one."""
    hint = unwrap(hint)
    names = _scalars.JSON_NAMES
    if hint in names:
        return names[hint]
    kind = typing.get_origin(hint) or hint
    return names.get(kind) or getattr(kind, "__name__", None) or str(kind)
