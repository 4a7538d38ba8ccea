"""MessagePack: Python values to bytes and back.

Bytes come from strangers: nothing is allocated because of a length that the bytes merely claim, and
nesting is bounded. Dataclasses and enumerations are written as maps and values, so that a handler
can return them; reading never makes anything but plain values.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

DEPTH_MAX = 128  # Payloads. Deeper ones are a mistake or an attack, and the reader recurses.
CONTROL_DEPTH_MAX = 32  # Control bodies, by the protocol.


class MalformedError(ValueError):
    """The bytes are not one MessagePack value."""


class Ext(NamedTuple):
    """An extension value, which only the two ends understand."""

    code: int
    data: bytes


_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_PUT_U8 = struct.Struct(">BB").pack
_PUT_U16 = struct.Struct(">BH").pack
_PUT_U32 = struct.Struct(">BI").pack
_PUT_U64 = struct.Struct(">BQ").pack
_PUT_I8 = struct.Struct(">Bb").pack
_PUT_I16 = struct.Struct(">Bh").pack
_PUT_I32 = struct.Struct(">Bi").pack
_PUT_I64 = struct.Struct(">Bq").pack
_PUT_F64 = struct.Struct(">Bd").pack


def pack(value: Any) -> bytes:
    """One value as MessagePack.

    Raises TypeError for a type that has no form there, ValueError for a number over 64 bits and for
    nesting deeper than `DEPTH_MAX`.
    """
    out = bytearray()
    _pack(value, out, 0)
    return bytes(out)


def _pack(value: Any, out: bytearray, depth: int) -> None:
    kind = type(value)
    if kind is str:
        data = value.encode()
        size = len(data)
        if size < 32:
            out.append(0xA0 | size)
        elif size < 256:
            out += _PUT_U8(0xD9, size)
        elif size < 65536:
            out += _PUT_U16(0xDA, size)
        else:
            out += _PUT_U32(0xDB, size)
        out += data
    elif kind is int:
        _pack_int(value, out)
    elif value is None:
        out.append(0xC0)
    elif value is True:
        out.append(0xC3)
    elif value is False:
        out.append(0xC2)
    elif kind is float:
        out += _PUT_F64(0xCB, value)
    elif kind is dict:
        _pack_map(value, out, depth)
    elif kind is list or kind is tuple:
        _pack_list(value, out, depth)
    elif kind is bytes or kind is bytearray or kind is memoryview:
        _pack_bytes(value, out)
    else:
        _pack_other(value, out, depth)


def _pack_int(value: int, out: bytearray) -> None:
    if 0 <= value < 0x80:
        out.append(value)
    elif -0x20 <= value < 0:
        out.append(value & 0xFF)
    elif value >= 0:
        if value < 0x100:
            out += _PUT_U8(0xCC, value)
        elif value < 0x10000:
            out += _PUT_U16(0xCD, value)
        elif value < 0x100000000:
            out += _PUT_U32(0xCE, value)
        elif value < 0x10000000000000000:
            out += _PUT_U64(0xCF, value)
        else:
            raise ValueError(f"{value} does not fit in 64 bits")
    elif value >= -0x80:
        out += _PUT_I8(0xD0, value)
    elif value >= -0x8000:
        out += _PUT_I16(0xD1, value)
    elif value >= -0x80000000:
        out += _PUT_I32(0xD2, value)
    elif value >= -0x8000000000000000:
        out += _PUT_I64(0xD3, value)
    else:
        raise ValueError(f"{value} does not fit in 64 bits")


def _pack_bytes(value: Any, out: bytearray) -> None:
    data = value.tobytes() if isinstance(value, memoryview) else value
    size = len(data)
    if size < 256:
        out += _PUT_U8(0xC4, size)
    elif size < 65536:
        out += _PUT_U16(0xC5, size)
    else:
        out += _PUT_U32(0xC6, size)
    out += data


def _pack_list(value: Any, out: bytearray, depth: int) -> None:
    size = len(value)
    if depth >= DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX} levels")
    if size < 16:
        out.append(0x90 | size)
    elif size < 65536:
        out += _PUT_U16(0xDC, size)
    else:
        out += _PUT_U32(0xDD, size)
    depth += 1
    for item in value:
        _pack(item, out, depth)


def _pack_map(value: Mapping[Any, Any], out: bytearray, depth: int) -> None:
    size = len(value)
    if depth >= DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX} levels")
    if size < 16:
        out.append(0x80 | size)
    elif size < 65536:
        out += _PUT_U16(0xDE, size)
    else:
        out += _PUT_U32(0xDF, size)
    depth += 1
    for key, item in value.items():
        _pack(key, out, depth)
        _pack(item, out, depth)


def _pack_other(value: Any, out: bytearray, depth: int) -> None:
    if isinstance(value, enum.Enum):
        _pack(value.value, out, depth)
    elif isinstance(value, Ext):
        size = len(value.data)
        code = value.code & 0xFF
        if size in _FIXED_EXT:
            out += bytes((_FIXED_EXT[size], code))
        elif size < 256:
            out += _PUT_U8(0xC7, size) + bytes((code,))
        elif size < 65536:
            out += _PUT_U16(0xC8, size) + bytes((code,))
        else:
            out += _PUT_U32(0xC9, size) + bytes((code,))
        out += value.data
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        _pack_map(fields, out, depth)
    elif isinstance(value, str):
        _pack(str(value), out, depth)
    elif isinstance(value, int):
        _pack_int(int(value), out)
    elif isinstance(value, float):
        out += _PUT_F64(0xCB, value)
    elif isinstance(value, Mapping):
        _pack_map(value, out, depth)
    elif isinstance(value, (list, tuple, set, frozenset)):
        _pack_list(value, out, depth)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        _pack_bytes(value, out)
    else:
        raise TypeError(f"a value of type {type(value).__name__} cannot be sent: {value!r:.80}")


_FIXED_EXT = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}


def unpack(data: bytes, depth_max: int = DEPTH_MAX) -> Any:
    """The one value that `data` holds.

    Raises MalformedError where `data` is cut short, has bytes left over, is nested deeper than
    `depth_max`, has text that is not UTF-8, or a map key that cannot be a key.
    """
    try:
        value, end = _unpack(data, 0, depth_max)
    except (IndexError, struct.error):
        raise MalformedError("the MessagePack value is cut short") from None
    except UnicodeDecodeError as error:
        raise MalformedError(f"a string is not UTF-8: {error.reason}") from None
    if end != len(data):
        raise MalformedError(f"{len(data) - end} bytes follow the MessagePack value")
    return value


def _unpack(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    first = data[at]
    at += 1
    if first < 0x80:
        return first, at
    if first < 0x90:
        return _unpack_map(data, at, first & 0x0F, depth)
    if first < 0xA0:
        return _unpack_list(data, at, first & 0x0F, depth)
    if first < 0xC0:
        end = at + (first & 0x1F)
        return _piece(data, at, end).decode(), end
    if first >= 0xE0:
        return first - 0x100, at
    reader = _READERS[first - 0xC0]
    return reader(data, at, depth)


def _piece(data: bytes, at: int, end: int) -> bytes:
    if end > len(data):
        raise MalformedError("the MessagePack value is cut short")
    return data[at:end]


def _unpack_list(data: bytes, at: int, count: int, depth: int) -> tuple[list[Any], int]:
    if depth <= 0:
        raise MalformedError("nested too deep")
    if count > len(data) - at:
        raise MalformedError(f"a list claims {count} items, more than there are bytes")
    items: list[Any] = []
    for _ in range(count):
        item, at = _unpack(data, at, depth - 1)
        items.append(item)
    return items, at


def _unpack_map(data: bytes, at: int, count: int, depth: int) -> tuple[Any, int]:
    if depth <= 0:
        raise MalformedError("nested too deep")
    if 2 * count > len(data) - at:
        raise MalformedError(f"a map claims {count} entries, more than there are bytes")
    result = {}
    for _ in range(count):
        key, at = _unpack(data, at, depth - 1)
        value, at = _unpack(data, at, depth - 1)
        try:
            result[key] = value
        except TypeError:
            raise MalformedError(f"a {type(key).__name__} cannot be a map key") from None
    return result, at


_Reader = Callable[[bytes, int, int], tuple[Any, int]]


def _constant(value: Any) -> _Reader:
    return lambda data, at, depth: (value, at)


def _never(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    raise MalformedError("byte 0xc1 is not MessagePack")


def _number(form: str) -> _Reader:
    layout = struct.Struct(form)
    size, read = layout.size, layout.unpack_from
    return lambda data, at, depth: (read(data, at)[0], at + size)


def _sized(form: str, finish: Callable[[bytes], Any]) -> _Reader:
    layout = struct.Struct(form)
    size, read = layout.size, layout.unpack_from

    def reader(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        start = at + size
        end = start + read(data, at)[0]
        return finish(_piece(data, start, end)), end

    return reader


def _ext(form: str) -> _Reader:
    layout = struct.Struct(form)
    size, read = layout.size, layout.unpack_from

    def reader(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        length, code = read(data, at)
        start = at + size
        return Ext(code, _piece(data, start, start + length)), start + length

    return reader


def _fixed_ext(length: int) -> _Reader:
    def reader(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        code = data[at] - 0x100 if data[at] >= 0x80 else data[at]
        return Ext(code, _piece(data, at + 1, at + 1 + length)), at + 1 + length

    return reader


def _counted(
    layout: struct.Struct, read: Callable[[bytes, int, int, int], tuple[Any, int]]
) -> _Reader:
    size, count = layout.size, layout.unpack_from
    return lambda data, at, depth: read(data, at + size, count(data, at)[0], depth)


_READERS: tuple[_Reader, ...] = (
    _constant(None),
    _never,
    _constant(False),
    _constant(True),
    _sized(">B", bytes),
    _sized(">H", bytes),
    _sized(">I", bytes),
    _ext(">Bb"),
    _ext(">Hb"),
    _ext(">Ib"),
    _number(">f"),
    _number(">d"),
    _number(">B"),
    _number(">H"),
    _number(">I"),
    _number(">Q"),
    _number(">b"),
    _number(">h"),
    _number(">i"),
    _number(">q"),
    _fixed_ext(1),
    _fixed_ext(2),
    _fixed_ext(4),
    _fixed_ext(8),
    _fixed_ext(16),
    _sized(">B", bytes.decode),
    _sized(">H", bytes.decode),
    _sized(">I", bytes.decode),
    _counted(_U16, _unpack_list),
    _counted(_U32, _unpack_list),
    _counted(_U16, _unpack_map),
    _counted(_U32, _unpack_map),
)
