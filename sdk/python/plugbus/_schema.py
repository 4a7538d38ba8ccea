"""Type hints: to JSON Schema for those who call, to a check for what they sent.

A hint becomes a `Shape`: a schema, and a function that takes a plain value (as MessagePack gives
it) and returns what the handler expects, or raises `Misfit` with the path to what does not fit.
Nothing is converted silently: a whole number fits where a float is wanted, and nothing else does.
"""

from __future__ import annotations

import ast
import base64
import binascii
import collections.abc
import dataclasses
import difflib
import enum
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import (
    Any,
    Callable,
    Literal,
    NamedTuple,
    Union,
)

from ._errors import InvalidArgument

Schema = dict[str, Any]
Check = Callable[[Any, str], Any]


class Misfit(Exception):
    """A value that does not fit its hint."""

    def __init__(self, path: str, expected: str, got: Any) -> None:
        super().__init__(path)
        self.path = path
        self.expected = expected
        self.got = got


class Shape(NamedTuple):
    """What a hint means."""

    schema: Schema
    check: Check
    expected: str


class Parameter(NamedTuple):
    """One argument of a method."""

    name: str
    shape: Shape
    required: bool


class Signature:
    """The arguments and the result of a method, read from its hints.

    Raises TypeError, naming the parameter, for a hint that has no JSON Schema, and for parameters
    that cannot be given by name.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = _hints_of(function)
        self.parameters: dict[str, Parameter] = {}
        self.takes_others = False
        properties: Schema = {}
        required: list[str] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self.takes_others = True
                continue
            if parameter.kind in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.VAR_POSITIONAL,
            ):
                raise TypeError(
                    f"{_label(function)}: arguments come by name, so `{name}` cannot be positional"
                )
            shape = _named_shape(hints.get(name, Any), function, name)
            needed = parameter.default is inspect.Parameter.empty
            self.parameters[name] = Parameter(name, shape, needed)
            schema = dict(shape.schema)
            if needed:
                required.append(name)
            else:
                default = _plain(parameter.default)
                if default is not _NO_DEFAULT:
                    schema["default"] = default
            properties[name] = schema
        self.schema: Schema = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": self.takes_others,
        }
        self.result: Schema | None = None
        if "return" in hints:
            self.result = _named_shape(hints["return"], function, "return").schema
        self._required = frozenset(required)

    def bind(self, arguments: Any) -> dict[str, Any]:
        """The arguments as the handler takes them. Raises InvalidArgument, naming the field."""
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise InvalidArgument(
                f"the arguments must be a map, not {_kind(arguments)}",
                expected="a map of arguments by name",
            )
        bound: dict[str, Any] = {}
        parameters = self.parameters
        for name, value in arguments.items():
            parameter = parameters.get(name)
            if parameter is None:
                if not self.takes_others or not isinstance(name, str):
                    raise self._unknown(name)
                bound[name] = value
                continue
            try:
                bound[name] = parameter.shape.check(value, name)
            except Misfit as misfit:
                raise _invalid(misfit) from None
        for name in self._required:
            if name not in bound:
                expected = parameters[name].shape.expected
                raise InvalidArgument(
                    f"argument `{name}` is missing: expected {expected}",
                    field=name,
                    expected=expected,
                )
        return bound

    def _unknown(self, name: Any) -> InvalidArgument:
        known = list(self.parameters)
        message = f"there is no argument `{name}`"
        near = difflib.get_close_matches(str(name), known, 1, 0.5)
        if near:
            message += f"; did you mean `{near[0]}`?"
        elif known:
            message += f"; there are {', '.join(f'`{each}`' for each in known)}"
        expected = f"one of {', '.join(known)}" if known else "no arguments"
        error = InvalidArgument(message, field=str(name), expected=expected)
        if near:
            error.details["suggestions"] = near
        return error


def shape(hint: Any) -> Shape:
    """The shape of a hint. Raises TypeError for one that has none."""
    return _shape(hint, {})


def _named_shape(hint: Any, function: Callable[..., Any], name: str) -> Shape:
    try:
        return shape(hint)
    except TypeError as error:
        raise TypeError(f"{_label(function)}, `{name}`: {error}") from None


_NO_DEFAULT = object()
_Seen = dict[Any, Shape]


def _shape(hint: Any, seen: _Seen) -> Shape:
    if hint in (Any, inspect.Parameter.empty, object):
        return Shape({}, lambda value, path: value, "any value")
    if hint is None or hint is type(None):
        return _simple("null", "nothing (null)", lambda value: value is None)
    simple = _SIMPLE.get(hint) if isinstance(hint, type) else None
    if simple is not None:
        return simple
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is Union or (_UNION_TYPE is not None and origin is _UNION_TYPE):
        return _union([_shape(each, seen) for each in arguments])
    if origin is Literal:
        return _one_of(list(arguments), list(arguments))
    if str(origin) in ("typing.Required", "typing.NotRequired", "typing.Annotated"):
        return _shape(arguments[0], seen)
    if hasattr(hint, "__metadata__"):  # Annotated
        return _shape(hint.__origin__, seen)
    if hasattr(hint, "__supertype__"):  # NewType
        return _shape(hint.__supertype__, seen)
    if isinstance(hint, typing.TypeVar):
        return _shape(Any, seen)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _one_of([each.value for each in hint], list(hint))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, seen, _dataclass_fields(hint), hint)
    if _is_typed_dict(hint):
        return _record(hint, seen, _typed_dict_fields(hint), dict)
    base = origin or hint
    if isinstance(base, type):
        if base is tuple:
            return _tuple(arguments, seen)
        if base in _LISTS:
            item = _shape(arguments[0] if arguments else Any, seen)
            return _list(item, _LISTS[base])
        if base in _MAPS:
            key = _shape(arguments[0] if arguments else Any, seen)
            item = _shape(arguments[1] if arguments else Any, seen)
            return _map(key, item)
    raise TypeError(f"{hint!r} has no form in JSON Schema")


def _simple(name: str, expected: str, fits: Callable[[Any], bool]) -> Shape:
    def check(value: Any, path: str) -> Any:
        if not fits(value):
            raise Misfit(path, expected, value)
        return value

    return Shape({"type": name}, check, expected)


def _check_float(value: Any, path: str) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise Misfit(path, "a number", value)


def _check_bytes(value: Any, path: str) -> Any:
    if type(value) is bytes:
        return value
    # What the schema tells those who have no bytes, such as JSON.
    if type(value) is str:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise Misfit(path, "bytes (or base64 text)", value)


_SIMPLE: dict[type, Shape] = {
    str: _simple("string", "text", lambda value: type(value) is str),
    bool: _simple("boolean", "true or false", lambda value: type(value) is bool),
    int: _simple("integer", "a whole number", lambda value: type(value) is int),
    float: Shape({"type": "number"}, _check_float, "a number"),
    bytes: Shape(
        {"type": "string", "contentEncoding": "base64"}, _check_bytes, "bytes (or base64 text)"
    ),
}
_LISTS: dict[type, Callable[[list[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
}
_MAPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_UNION_TYPE: Any = getattr(types, "UnionType", None)


def _union(members: list[Shape]) -> Shape:
    expected = " or ".join(dict.fromkeys(each.expected for each in members))

    def check(value: Any, path: str) -> Any:
        deepest: Misfit | None = None
        for member in members:
            try:
                return member.check(value, path)
            except Misfit as misfit:
                # A misfit further inside says more than "none of these".
                if len(misfit.path) > len(deepest.path if deepest else path):
                    deepest = misfit
        raise deepest or Misfit(path, expected, value)

    return Shape({"anyOf": [each.schema for each in members]}, check, expected)


def _one_of(values: list[Any], results: list[Any]) -> Shape:
    expected = "one of " + ", ".join(map(repr, values))
    pairs = list(zip(values, results))

    def check(value: Any, path: str) -> Any:
        for each, result in pairs:
            if type(each) is type(value) and each == value:
                return result
        raise Misfit(path, expected, value)

    return Shape({"enum": values}, check, expected)


def _list(item: Shape, make: Callable[[list[Any]], Any]) -> Shape:
    check_item = item.check

    def check(value: Any, path: str) -> Any:
        if type(value) is not list:
            raise Misfit(path, "a list", value)
        return make([check_item(each, f"{path}[{index}]") for index, each in enumerate(value)])

    schema: Schema = {"type": "array", "items": item.schema}
    if make is not list:
        schema["uniqueItems"] = True
    return Shape(schema, check, "a list")


def _tuple(arguments: tuple[Any, ...], seen: _Seen) -> Shape:
    if not arguments or (len(arguments) == 2 and arguments[1] is Ellipsis):
        item = _shape(arguments[0] if arguments else Any, seen)
        plain = _list(item, list)
        return Shape(
            plain.schema, lambda value, path: tuple(plain.check(value, path)), plain.expected
        )
    if arguments == ((),):
        arguments = ()
    members = [_shape(each, seen) for each in arguments]
    expected = f"a list of {len(members)} values"

    def check(value: Any, path: str) -> Any:
        if type(value) is not list or len(value) != len(members):
            raise Misfit(path, expected, value)
        pairs = enumerate(zip(members, value))
        return tuple(member.check(each, f"{path}[{index}]") for index, (member, each) in pairs)

    schema: Schema = {
        "type": "array",
        "prefixItems": [each.schema for each in members],
        "minItems": len(members),
        "maxItems": len(members),
    }
    return Shape(schema, check, expected)


def _map(key: Shape, item: Shape) -> Shape:
    def check(value: Any, path: str) -> Any:
        if type(value) is not dict:
            raise Misfit(path, "a map", value)
        return {
            key.check(name, f"{path} key"): item.check(each, f"{path}.{name}")
            for name, each in value.items()
        }

    return Shape({"type": "object", "additionalProperties": item.schema}, check, "a map")


class _Field(NamedTuple):
    name: str
    hint: Any
    required: bool


def _dataclass_fields(hint: Any) -> list[_Field]:
    hints = _hints_of(hint)
    fields = []
    for field in dataclasses.fields(hint):
        if field.init:
            missing = dataclasses.MISSING
            required = field.default is missing and field.default_factory is missing
            fields.append(_Field(field.name, hints[field.name], required))
    return fields


def _typed_dict_fields(hint: Any) -> list[_Field]:
    required = hint.__required_keys__
    return [_Field(name, each, name in required) for name, each in _hints_of(hint).items()]


def _is_typed_dict(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, dict) and hasattr(hint, "__required_keys__")


def _record(hint: Any, seen: _Seen, fields: list[_Field], make: Callable[..., Any]) -> Shape:
    if hint in seen:
        # A class that contains itself: its schema would have no end, its check has one.
        return seen[hint]
    expected = f"a map ({hint.__name__})"
    checks: dict[str, Check] = {}
    required = [field.name for field in fields if field.required]

    def check(value: Any, path: str) -> Any:
        if type(value) is not dict:
            raise Misfit(path, expected, value)
        found = {}
        for name, each in value.items():
            if name not in checks:
                raise Misfit(f"{path}.{name}", f"one of {', '.join(checks)}", each)
            found[name] = checks[name](each, f"{path}.{name}")
        for name in required:
            if name not in found:
                raise Misfit(f"{path}.{name}", "a value", _NO_DEFAULT)
        return make(**found)

    seen[hint] = Shape({"type": "object", "title": hint.__name__}, check, expected)
    properties: Schema = {}
    for field in fields:
        member = _shape(field.hint, seen)
        checks[field.name] = member.check
        properties[field.name] = member.schema
    schema: Schema = {
        "type": "object",
        "title": hint.__name__,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    del seen[hint]
    return Shape(schema, check, expected)


def _invalid(misfit: Misfit) -> InvalidArgument:
    if misfit.got is _NO_DEFAULT:
        message = f"argument `{misfit.path}` is missing"
    else:
        message = f"argument `{misfit.path}`: expected {misfit.expected}, got {_kind(misfit.got)}"
    return InvalidArgument(message, field=misfit.path, expected=misfit.expected)


def _kind(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float, str)):
        return f"{value!r:.60}"
    kind = type(value).__name__
    return {"dict": "a map", "list": "a list"}.get(kind, kind)


def _plain(value: Any) -> Any:
    """A default as JSON has it, or `_NO_DEFAULT` for one that JSON does not have."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = [_plain(each) for each in value]
        return _NO_DEFAULT if any(each is _NO_DEFAULT for each in items) else items
    if isinstance(value, Mapping):
        entries = {str(key): _plain(each) for key, each in value.items()}
        bad = any(each is _NO_DEFAULT for each in entries.values())
        return _NO_DEFAULT if bad else entries
    return _NO_DEFAULT


def _label(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _hints_of(subject: Any) -> dict[str, Any]:
    """The hints of a function or class, those written as text included."""
    try:
        return typing.get_type_hints(subject)
    except TypeError:
        if sys.version_info >= (3, 10):
            raise
        return _old_hints_of(subject)
    except NameError as error:
        raise TypeError(
            f"a hint of {_label(subject)} is not known where it is defined: {error}"
        ) from None


def _old_hints_of(subject: Any) -> dict[str, Any]:
    """Before Python 3.10 `int | None` is known only to type checkers; here it is read as text."""
    hints: dict[str, Any] = {}
    owners = reversed(subject.__mro__) if isinstance(subject, type) else [subject]
    for owner in owners:
        names = dict(vars(typing))
        names.update(vars(sys.modules.get(owner.__module__, typing)))
        names.update(getattr(owner, "__globals__", {}))
        own = owner.__dict__ if isinstance(owner, type) else {}
        annotations = own.get("__annotations__", {}) if own else owner.__annotations__
        for name, hint in annotations.items():
            if isinstance(hint, typing.ForwardRef):
                hint = hint.__forward_arg__
            if isinstance(hint, str):
                tree = ast.fix_missing_locations(_Bars().visit(ast.parse(hint, mode="eval")))
                hint = eval(compile(tree, "<hint>", "eval"), names)  # What get_type_hints does.
            hints[name] = hint
    return hints


class _Bars(ast.NodeTransformer):
    """Writes `a | b` as `Union[a, b]`."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.BitOr):
            return node
        pair = ast.Tuple(elts=[node.left, node.right], ctx=ast.Load())
        union = ast.Name(id="Union", ctx=ast.Load())
        return ast.Subscript(value=union, slice=pair, ctx=ast.Load())
