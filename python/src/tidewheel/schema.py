"""Annotations to JSON Schema, draft 2020-12.

>>> from typing import List
>>> schema_for(List[int])
{'type': 'array', 'items': {'type': 'integer'}}
"""

from __future__ import annotations

import collections.abc as abc
import enum
import typing

from . import decode
from .encode import to_json
from .errors import ResultError

if typing.TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

    Schema = Dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_NONE = type(None)
_SCALARS: "Dict[Any, Schema]" = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    _NONE: {"type": "null"},
    bytes: {"type": "string", "contentEncoding": "base64"},
}
_LIBRARY = {
    "decimal.Decimal": "decimal",
    "uuid.UUID": "uuid",
    "datetime.datetime": "date-time",
    "datetime.date": "date",
    "datetime.time": "time",
    "datetime.timedelta": "duration",
}


def schema_for(hint: "Any") -> "Schema":
    """The schema of one type, with its own definitions."""
    builder = SchemaBuilder()
    return builder.finish(builder.of(hint))


class SchemaBuilder:
    """Collects the classes that several places of one schema share."""

    def __init__(self) -> None:
        self.definitions: "Dict[str, Schema]" = {}
        self._names: "Dict[Any, str]" = {}

    def finish(self, schema: "Schema") -> "Schema":
        return {**schema, "$defs": self.definitions} if self.definitions else schema

    def of(self, hint: "Any") -> "Schema":
        notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, str)]
        schema = self._of(decode.unwrap(hint))
        return {**schema, "description": notes[0]} if notes else schema

    def _of(self, hint: "Any") -> "Schema":
        if hint is None:
            hint = _NONE
        if hint is typing.Any or hint is object or isinstance(hint, typing.TypeVar):
            return {}
        origin = typing.get_origin(hint)
        args = typing.get_args(hint)
        if origin in decode._UNION_TYPES:
            return self._union(args)
        if origin is typing.Literal:
            return {"enum": [decode._plain(choice) for choice in args]}
        kind: "Any" = origin or hint
        if kind in _SCALARS:
            return dict(_SCALARS[kind])
        named = _LIBRARY.get(decode.library_name(kind) or "")
        if named is not None:
            return {"type": "string", "format": named}
        if decode.is_model(kind):
            return self._shared(hint, kind, lambda: self._model(kind))
        if isinstance(kind, type):
            if issubclass(kind, enum.Enum):
                return self._shared(hint, kind, lambda: {"enum": [decode._plain(choice) for choice in kind], "title": kind.__name__})
            if hasattr(kind, "__dataclass_fields__"):
                return self._shared(hint, kind, lambda: self._dataclass(hint, kind))
            if decode.is_typed_dict(kind):
                return self._shared(hint, kind, lambda: self._record(kind, decode.typed_dict_fields(kind)))
            if decode.is_named_tuple(kind):
                return self._named_tuple(kind)
            if decode.is_path(kind):
                return {"type": "string", "format": "path"}
        if kind is dict or kind in (abc.Mapping, abc.MutableMapping):
            return self._with("object", "additionalProperties", args[1:])
        if kind in (set, frozenset, abc.Set, abc.MutableSet):
            return {**self._with("array", "items", args), "uniqueItems": True}
        if kind is tuple and args and args[-1] is not Ellipsis:
            items = [arg for arg in args if arg != ()]
            return self._tuple(items, len(items))
        if kind in (list, tuple, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection):
            return self._with("array", "items", args[:1])
        raise TypeError(f"{decode.type_name(hint)} has no JSON Schema")

    def _with(self, kind: str, name: str, args: "Tuple[Any, ...]") -> "Schema":
        inner = self.of(args[0]) if args else {}
        return {"type": kind, name: inner} if inner else {"type": kind}

    def _tuple(self, items: "List[Any]", least: int) -> "Schema":
        return {"type": "array", "prefixItems": [self.of(item) for item in items], "items": False, "minItems": least}

    def _named_tuple(self, kind: "Any") -> "Schema":
        hints = decode.resolve_hints(kind, kind.__qualname__)
        return self._tuple([hints.get(name, typing.Any) for name in kind._fields], len(kind._fields) - len(kind._field_defaults))

    def _union(self, args: "Tuple[Any, ...]") -> "Schema":
        members = [self.of(arg) for arg in args]
        if {} in members:
            return {}
        if all(list(member) == ["type"] for member in members):  # short where it can be: {"type": ["integer", "null"]}
            return {"type": [member["type"] for member in members]}
        return {"anyOf": members}

    def _shared(self, hint: "Any", kind: "Any", build: "Any") -> "Schema":
        if hint not in self._names:
            name, n = kind.__name__, 1
            while name in self.definitions:
                n += 1
                name = f"{kind.__name__}{n}"
            self._names[hint] = name
            self.definitions[name] = {}  # taken, in case the class refers to itself
            self.definitions[name] = build()
        return {"$ref": f"#/$defs/{self._names[hint]}"}

    def _model(self, kind: "Any") -> "Schema":
        schema = dict(kind.model_json_schema(ref_template="#/$defs/{model}"))
        self.definitions.update(schema.pop("$defs", {}))
        return schema

    def _dataclass(self, hint: "Any", kind: "Any") -> "Schema":
        schema = self._record(kind, decode.dataclass_fields(hint, kind))
        import dataclasses

        for field in dataclasses.fields(kind):
            if field.init and field.default is not dataclasses.MISSING:
                with_default(schema["properties"], field.name, field.default)
        return schema

    def _record(self, kind: "Any", fields: "List[Tuple[str, Any, bool]]") -> "Schema":
        return {"title": kind.__name__, **self.object_of(fields)}

    def object_of(self, fields: "List[Tuple[str, Any, bool]]", open_ended: bool = False) -> "Schema":
        schema: "Schema" = {"type": "object", "properties": {name: self.of(hint) for name, hint, _ in fields}}
        required = [name for name, _, needed in fields if needed]
        if required:
            schema["required"] = required
        if not open_ended:
            schema["additionalProperties"] = False
        return schema


def with_default(properties: "Schema", name: str, value: "Any") -> None:
    """Notes a default in the schema of a property, if it has a JSON form."""
    try:
        properties[name] = {**properties[name], "default": to_json(value)}
    except ResultError:
        pass  # a form simply shows no default then
