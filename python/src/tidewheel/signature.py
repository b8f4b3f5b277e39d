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

import inspect
import typing

from .decode import decoder_for, json_name, optional_decoder, resolve_hints, unknown_field
from .encode import to_json
from .errors import InputError
from .schema import DIALECT, SchemaBuilder, with_default

if typing.TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Arguments = Tuple[Tuple[Any, ...], Dict[str, Any]]

_P = inspect.Parameter
_NO_ARGUMENTS: "Arguments" = ((), {})


class Signature:
    """Built once per task, when it is first registered or called from outside."""

    def __init__(self, function: "Callable[..., Any]", batch: bool = False) -> None:
        self.label = f"{function.__module__}:{function.__qualname__}"
        self._parameters = list(inspect.signature(function).parameters.values())
        self._hints = resolve_hints(function, self.label)
        self.batch = batch
        self.returns: "Any" = self._hints.get("return", typing.Any)
        if batch:
            self._as_batch()
        #: Decoder by name; None where the value passes as it is.
        self._decoders: "Dict[str, Optional[Callable[[Any], Any]]]" = {}
        for parameter in self._parameters:
            try:
                self._decoders[parameter.name] = optional_decoder(self._hint(parameter))
            except TypeError as error:
                raise TypeError(f"{self.label}: parameter {parameter.name!r}: {error}") from None
        kinds = [p.kind for p in self._parameters]
        self._named = {p.name for p in self._parameters if p.kind in (_P.POSITIONAL_OR_KEYWORD, _P.KEYWORD_ONLY)}
        self._positional = [p for p in self._parameters if p.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD)]
        self._rest = next((p for p in self._parameters if p.kind is _P.VAR_POSITIONAL), None)
        self._extra = next((p for p in self._parameters if p.kind is _P.VAR_KEYWORD), None)
        self._required = [
            p.name for p in self._parameters if p.default is _P.empty and p.kind not in (_P.VAR_POSITIONAL, _P.VAR_KEYWORD)
        ]
        # Only such a signature can be sent by name; the others go as an array.
        self._by_name = _P.POSITIONAL_ONLY not in kinds and self._rest is None
        # With nothing to convert, an object that has all names and no other is passed on untouched.
        self._plain = self._by_name and self._extra is None and not any(self._decoders.values())

    def _as_batch(self) -> None:
        """The handler of a batch takes one list; a member's input is one element of it."""
        if len(self._parameters) != 1 or self._parameters[0].kind not in (_P.POSITIONAL_OR_KEYWORD, _P.POSITIONAL_ONLY):
            raise TypeError(f"{self.label}: the function of a batch task takes exactly one parameter, the list of inputs")
        self.item_hint = _element_of(self._hint(self._parameters[0]))
        self.item_decoder = decoder_for(self.item_hint)
        self.returns = _element_of(self.returns)

    def _hint(self, parameter: "inspect.Parameter") -> "Any":
        return self._hints.get(parameter.name, typing.Any)

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
            return ((), {parameter.name: decoded}) if parameter.kind is _P.KEYWORD_ONLY else ((decoded,), {})
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
                    named[name] = decoder_for(self._hint(self._extra))(item)
                except InputError as error:
                    raise error.at(name)
            elif name not in self._decoders or self._decoders_kind(name) is not _P.POSITIONAL_ONLY:
                raise unknown_field(name, self._decoders)
        positional = []
        for parameter in self._parameters:
            if parameter.kind is _P.POSITIONAL_ONLY and parameter.name in value:
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
        return inspect.Signature(self._parameters).bind(*args, **kwargs)

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
        builder = SchemaBuilder()
        if self.batch:
            return {"$schema": DIALECT, **builder.finish(builder.of(self.item_hint))}
        fields = [
            (p.name, self._hint(p), p.name in self._required)
            for p in self._parameters
            if p.kind not in (_P.VAR_POSITIONAL, _P.VAR_KEYWORD)
        ]
        schema = builder.object_of(fields, open_ended=self._extra is not None)
        for parameter in self._parameters:
            if parameter.default is not _P.empty:
                with_default(schema["properties"], parameter.name, parameter.default)
        return {"$schema": DIALECT, **builder.finish(schema)}

    def schema_out(self) -> "Dict[str, Any]":
        """JSON Schema of the result; open where the annotation says nothing JSON Schema could."""
        builder = SchemaBuilder()
        try:
            return {"$schema": DIALECT, **builder.finish(builder.of(self.returns))}
        except TypeError:
            return {"$schema": DIALECT}

    def result(self, value: "Any") -> "Any":
        """A result read back by the return annotation; as it came where that does not fit, since the work is done."""
        try:
            return decoder_for(self.returns)(value)
        except (TypeError, InputError):
            return value

    def default(self, name: str) -> "Any":
        """The JSON form of a parameter's default; None where there is none."""
        for parameter in self._parameters:
            if parameter.name == name and parameter.default is not _P.empty:
                return to_json(parameter.default, name)
        return None

    @property
    def names(self) -> "List[str]":
        return [p.name for p in self._parameters]


def _element_of(hint: "Any") -> "Any":
    args = typing.get_args(hint)
    return args[0] if len(args) == 1 or len(args) == 2 and args[1] is Ellipsis else typing.Any
