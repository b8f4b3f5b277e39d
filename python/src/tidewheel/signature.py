"""A task's function as seen from outside: what input it takes, how that becomes arguments, and the other way round.

The input of a task is JSON. An object gives arguments by name, an array by position, null gives none, and a function with
one parameter takes a bare text, number or truth value.

>>> def order(customer: str, amount: int = 1) -> None: ...
>>> Signature(order).arguments({"customer": "acme"})
((), {'customer': 'acme'})
>>> Signature(order).arguments({"customer": 7})
Traceback (most recent call last):
tidewheel.errors.InputError: input.customer: expected string, got integer
"""

from __future__ import annotations

from . import _scalars
from ._scalars import json_name
from .encode import to_json
from .errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Arguments = Tuple[Tuple[Any, ...], Dict[str, Any]]

_NO_ARGUMENTS: "Arguments" = ((), {})

# The kinds of parameters, numbered as in `inspect`, which a worker process that runs plain functions does not load: it would
# be a good part of its start.
_POSITIONAL_ONLY, _BOTH, _VAR_POSITIONAL, _KEYWORD_ONLY, _VAR_KEYWORD = range(5)
_EMPTY = object()
_POSITIONAL = (_POSITIONAL_ONLY, _BOTH)
_VARIABLE = (_VAR_POSITIONAL, _VAR_KEYWORD)


class Parameter:
    """One parameter: its name, its kind and its default (or `_EMPTY`)."""

    __slots__ = ("name", "kind", "default")

    def __init__(self, name: str, kind: int, default: "Any" = _EMPTY) -> None:
        self.name = name
        self.kind = kind
        self.default = default


def _parameters(function: "Any") -> "List[Parameter]":
    """What `inspect.signature` would say; read from the code object where that is the whole truth."""
    if type(function) is not type(_parameters) or "__wrapped__" in function.__dict__ or "__signature__" in function.__dict__:
        import inspect

        return [
            Parameter(p.name, int(p.kind), _EMPTY if p.default is p.empty else p.default)
            for p in inspect.signature(function).parameters.values()
        ]
    code = function.__code__
    names, count = code.co_varnames, code.co_argcount
    defaults = function.__defaults__ or ()
    padded = (_EMPTY,) * (count - len(defaults)) + defaults
    out = [
        Parameter(name, _POSITIONAL_ONLY if i < code.co_posonlyargcount else _BOTH, padded[i])
        for i, name in enumerate(names[:count])
    ]
    last = count + code.co_kwonlyargcount
    named = function.__kwdefaults__ or {}
    more = iter(names[last:])
    if code.co_flags & 4:
        out.append(Parameter(next(more), _VAR_POSITIONAL))
    out.extend(Parameter(name, _KEYWORD_ONLY, named.get(name, _EMPTY)) for name in names[count:last])
    if code.co_flags & 8:
        out.append(Parameter(next(more), _VAR_KEYWORD))
    return out


def _hints(function: "Any", label: str, parameters: "List[Parameter]") -> "Dict[str, Any]":
    """The annotations, resolved. Those that name nothing but built-in types are resolved here, the others by `typing`."""
    given = getattr(function, "__annotations__", None)
    if type(function) is type(_hints) and "__wrapped__" not in function.__dict__ and type(given) is dict:
        plain = {name: _plain_hint(hint, function.__globals__) for name, hint in given.items()}
        # Before 3.11 a default of None makes a type optional, which is for `typing` to say.
        if _EMPTY not in plain.values() and not any(p.default is None and p.name in plain for p in parameters):
            return plain
    from .decode import resolve_hints

    return resolve_hints(function, label)


def _plain_hint(hint: "Any", names: "Dict[str, Any]") -> "Any":
    """A built-in type, by itself or by its name (postponed annotations); `_EMPTY` for everything else."""
    if isinstance(hint, str):
        hint = _EMPTY if hint in names else _BY_NAME.get(hint, _EMPTY)
    elif hint is None:
        hint = type(None)
    try:
        return hint if hint in _scalars.DECODERS else _EMPTY
    except TypeError:  # unhashable
        return _EMPTY


_BY_NAME: "Dict[str, Any]" = {kind.__name__: kind for kind in (str, int, float, bool, bytes, dict, list)}
_BY_NAME["None"] = type(None)


def _optional_decoder(hint: "Any") -> "Optional[Callable[[Any], Any]]":
    try:
        if hint is object or hint in _scalars.DECODERS:
            return _scalars.DECODERS.get(hint)
    except TypeError:
        pass
    from .decode import optional_decoder

    return optional_decoder(hint)


def _decoder_for(hint: "Any") -> "Callable[[Any], Any]":
    return _optional_decoder(hint) or _as_it_is


def _as_it_is(value: "Any") -> "Any":
    return value


class Signature:
    """Built once per task, when it is first registered or called from outside."""

    def __init__(self, function: "Callable[..., Any]", batch: bool = False) -> None:
        self.label = f"{function.__module__}:{function.__qualname__}"
        self._function = function
        self._parameters = _parameters(function)
        self._hints = _hints(function, self.label, self._parameters)
        self.batch = batch
        self.returns: "Any" = self._hints.get("return", object)
        self._inspected: "Optional[inspect.Signature]" = None
        if batch:
            self._as_batch()
        #: Decoder by name; None where the value passes as it is.
        self._decoders: "Dict[str, Optional[Callable[[Any], Any]]]" = {}
        for parameter in self._parameters:
            try:
                self._decoders[parameter.name] = _optional_decoder(self._hint(parameter))
            except TypeError as error:
                raise TypeError(f"{self.label}: parameter {parameter.name!r}: {error}") from None
        kinds = [p.kind for p in self._parameters]
        self._named = {p.name for p in self._parameters if p.kind in (_BOTH, _KEYWORD_ONLY)}
        self._positional = [p for p in self._parameters if p.kind in _POSITIONAL]
        self._rest = next((p for p in self._parameters if p.kind == _VAR_POSITIONAL), None)
        self._extra = next((p for p in self._parameters if p.kind == _VAR_KEYWORD), None)
        self._required = [p.name for p in self._parameters if p.default is _EMPTY and p.kind not in _VARIABLE]
        # Only such a signature can be sent by name; the others go as an array.
        self._by_name = _POSITIONAL_ONLY not in kinds and self._rest is None
        # With nothing to convert, an object that has all names and no other is passed on untouched.
        self._plain = self._by_name and self._extra is None and not any(self._decoders.values())

    def _as_batch(self) -> None:
        """The handler of a batch takes one list; a member's input is one element of it."""
        if len(self._parameters) != 1 or self._parameters[0].kind not in _POSITIONAL:
            raise TypeError(f"{self.label}: the function of a batch task takes exactly one parameter, the list of inputs")
        self.item_hint = _element_of(self._hint(self._parameters[0]))
        self.item_decoder = _decoder_for(self.item_hint)
        self.returns = _element_of(self.returns)

    def _hint(self, parameter: Parameter) -> "Any":
        # `object` takes anything, as an annotation too.
        return self._hints.get(parameter.name, object)

    # -- outside to inside -------------------------------------------------------------------------------------------

    def arguments(self, value: "Any") -> "Arguments":
        """Positional and named arguments for an input; raises `InputError` that names the place."""
        kind = type(value)
        if kind is dict:
            if self._plain and value.keys() == self._named:
                return (), value
            return self._from_object(value)
        if value is None:
            if self._required:
                raise InputError("is missing").at(self._required[0])
            return _NO_ARGUMENTS
        if kind is list:
            return self._from_array(value)
        if len(self._parameters) == 1 and self._extra is None and self._rest is None:
            parameter = self._parameters[0]
            decoded = self._decode(parameter.name, value)
            return ((), {parameter.name: decoded}) if parameter.kind == _KEYWORD_ONLY else ((decoded,), {})
        raise InputError(f"expected an object with the arguments by name, or an array, got {json_name(value)}")

    def member(self, value: "Any") -> "Any":
        """One member's input of a batch task."""
        return self.item_decoder(value)

    def _decode(self, name: str, value: "Any", step: "Any" = None) -> "Any":
        decoder = self._decoders[name]
        if decoder is None:
            return value
        try:
            return decoder(value)
        except InputError as error:
            raise error.at(name if step is None else step)

    def _from_object(self, value: "Dict[str, Any]") -> "Arguments":
        named = {}
        for name, item in value.items():
            if name in self._named:
                named[name] = self._decode(name, item)
            elif self._extra is not None:
                try:
                    named[name] = _decoder_for(self._hint(self._extra))(item)
                except InputError as error:
                    raise error.at(name)
            elif name not in self._decoders or self._decoders_kind(name) != _POSITIONAL_ONLY:
                from .decode import unknown_field

                raise unknown_field(name, self._decoders)
        positional = []
        for parameter in self._parameters:
            if parameter.kind == _POSITIONAL_ONLY and parameter.name in value:
                positional.append(self._decode(parameter.name, value[parameter.name]))
        for name in self._required:
            if name not in value:
                raise InputError("is missing").at(name)
        return tuple(positional), named

    def _decoders_kind(self, name: str) -> "Any":
        return next(p.kind for p in self._parameters if p.name == name)

    def _from_array(self, value: "List[Any]") -> "Arguments":
        if len(value) > len(self._positional) and self._rest is None:
            hint = "" if len(self._parameters) != 1 else f"; to give one array, send {{{self._parameters[0].name!r}: [...]}}"
            raise InputError(f"expected at most {len(self._positional)} arguments, got {len(value)}{hint}")
        names = [p.name for p in self._positional]
        out = []
        for i, item in enumerate(value):
            name = names[i] if i < len(names) else self._rest.name  # type: ignore[union-attr]
            out.append(self._decode(name, item, i))
        for name in self._required:
            if name not in names[: len(value)]:
                raise InputError("is missing").at(name)
        return tuple(out), {}

    # -- inside to outside -------------------------------------------------------------------------------------------

    def bind(self, args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]") -> "inspect.BoundArguments":
        """The arguments by name. Raises TypeError as the call itself would."""
        if self.batch:
            if len(args) != 1 or kwargs:
                raise TypeError(f"{self.label} is a batch task: enqueue one member at a time, with one argument")
        if self._inspected is None:
            import inspect

            self._inspected = inspect.signature(self._function)
        return self._inspected.bind(*args, **kwargs)

    def input(self, bound: "inspect.BoundArguments") -> "Any":
        """The JSON input that brings these arguments back."""
        if self.batch:
            return to_json(bound.args[0], "input")
        if not self._by_name:
            if bound.kwargs:
                raise TypeError(f"{self.label} takes both *args and named arguments, which no JSON input can express")
            return [to_json(arg, f"input[{i}]") for i, arg in enumerate(bound.args)]
        named = dict(bound.arguments)
        if self._extra is not None:
            named.update(named.pop(self._extra.name, {}))
        return {name: to_json(item, f"input.{name}") for name, item in named.items()}

    # -- schemas -----------------------------------------------------------------------------------------------------

    def schema_in(self) -> "Dict[str, Any]":
        """JSON Schema of the input in its object form (of one member, for a batch task)."""
        from .schema import DIALECT, SchemaBuilder, with_default

        builder = SchemaBuilder()
        if self.batch:
            return {"$schema": DIALECT, **builder.finish(builder.of(self.item_hint))}
        fields = [
            (p.name, self._hint(p), p.name in self._required)
            for p in self._parameters
            if p.kind not in _VARIABLE
        ]
        schema = builder.object_of(fields, open_ended=self._extra is not None)
        for parameter in self._parameters:
            if parameter.default is not _EMPTY:
                with_default(schema["properties"], parameter.name, parameter.default)
        return {"$schema": DIALECT, **builder.finish(schema)}

    def schema_out(self) -> "Dict[str, Any]":
        """JSON Schema of the result; open where the annotation says nothing JSON Schema could."""
        from .schema import DIALECT, SchemaBuilder

        builder = SchemaBuilder()
        try:
            return {"$schema": DIALECT, **builder.finish(builder.of(self.returns))}
        except TypeError:
            return {"$schema": DIALECT}

    def result(self, value: "Any") -> "Any":
        """A result read back by the return annotation; as it came where that does not fit, since the work is done."""
        try:
            return _decoder_for(self.returns)(value)
        except (TypeError, InputError):
            return value

    def default(self, name: str) -> "Any":
        """The JSON form of a parameter's default; None where there is none."""
        for parameter in self._parameters:
            if parameter.name == name and parameter.default is not _EMPTY:
                return to_json(parameter.default, name)
        return None

    @property
    def positions(self) -> "List[str]":
        """Names of the parameters that may be given by position, in order."""
        return [p.name for p in self._positional]

    @property
    def names(self) -> "List[str]":
        return [p.name for p in self._parameters]


def _element_of(hint: "Any") -> "Any":
    if hint in (object, list):
        return object
    import typing

    args = typing.get_args(hint)
    return args[0] if len(args) == 1 or len(args) == 2 and args[1] is Ellipsis else object
