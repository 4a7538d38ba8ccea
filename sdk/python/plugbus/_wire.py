"""Frames: bytes in, frames out. No socket, no clock, no thread.

The layout is chapter 2 of the protocol's specification. A frame is a plain tuple (see `Frame`),
because tuples are what Python makes and takes apart fastest. Errors of the framing are sticky: a
stream that has lost its framing cannot find it again.
"""

from __future__ import annotations

import struct
from typing import Any

from . import _msgpack
from ._errors import ProtocolError

HELLO, WELCOME, PING, PONG, REQUEST, RESPONSE, ERROR, STARTED, CANCEL, EVENT = range(1, 11)
BROADCAST, GAP, REDELIVERY, SIGNAL, SHUTDOWN, REGISTER, UNREGISTER, QUERY, ANNOUNCE = range(11, 20)
REPORT, RESOURCE_REQUEST, SUBSCRIBE, UNSUBSCRIBE, OPEN, CLOSE, MESSAGE, CREDIT, ACK = range(20, 29)

EXTENDED, CHECKSUM, COMPRESSED, ENCRYPTED, MORE, NO_REPLY, POOLED = (1 << bit for bit in range(7))
RAW, MSGPACK, JSON, PROTOBUF, TEXT = range(5)
CONTENT_SHIFT = 8

HEADER = struct.Struct("<BBHIQQQI")
HEADER_SIZE = HEADER.size
TRAILER_SIZE = 8
DIALECT = 1
MAGIC = b"PLUGBUS\n"
PAYLOAD_MAX = 1 << 20
MESSAGE_MAX = 64 << 20

# Deadline in milliseconds, zero, trace id, span id, nonce.
REQUEST_EXTENSION = struct.Struct("<II16sQQ")
# Key, trace id, span id, nonce.
MESSAGE_EXTENSION = struct.Struct("<Q16sQQ")
CALL_REFERENCE = struct.Struct("<Q")
U64 = struct.Struct("<Q")
CREDIT_BODY = struct.Struct("<QQ")
REDELIVERY_BODY = struct.Struct("<QI")

EXTENSION_SIZES: dict[int, int] = {
    REQUEST: REQUEST_EXTENSION.size,
    EVENT: MESSAGE_EXTENSION.size,
    BROADCAST: MESSAGE_EXTENSION.size,
    MESSAGE: MESSAGE_EXTENSION.size,
    RESPONSE: CALL_REFERENCE.size,
    ERROR: CALL_REFERENCE.size,
    STARTED: CALL_REFERENCE.size,
    CANCEL: CALL_REFERENCE.size,
}

# Type, flags, route, message id, session, timestamp (Unix time in ns), extension, body.
Frame = tuple[int, int, int, int, int, int, bytes, bytes]

_RESERVED = 0xF080
_ZERO = bytes(TRAILER_SIZE)
# Nothing but a content type: frames with these flags take the short way through the decoder.
_PLAIN = frozenset(content << CONTENT_SHIFT for content in range(TEXT + 1))


class Decoder:
    """Splits the bytes of one connection into frames.

    `failed` is the error that ended the stream, for the driver to report before it closes; frames
    that were complete before it are still handed out.
    """

    def __init__(self, payload_max: int = PAYLOAD_MAX) -> None:
        self.payload_max = payload_max
        self.failed: ProtocolError | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._need = 1

    def feed(self, data: bytes) -> list[Frame]:
        """Takes bytes as they came, gives every frame that is complete now."""
        if self.failed:
            return []
        if self._parts:
            # A large frame comes in many pieces: they are joined once, when it can be complete.
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._need:
                return []
            data = b"".join(self._parts)
            self._parts = []
        return self._split(data)

    def _split(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        append = frames.append
        unpack = HEADER.unpack_from
        payload_max = self.payload_max
        at = 0
        size = len(data)
        need = HEADER_SIZE
        while size - at >= HEADER_SIZE:
            dialect, kind, flags, route, message_id, session, stamp, length = unpack(data, at)
            if dialect != DIALECT or length > payload_max:
                break
            start = at + HEADER_SIZE
            end = start + length
            if flags not in _PLAIN:
                if flags & _RESERVED or (flags >> CONTENT_SHIFT) > TEXT:
                    break
                extension_size = EXTENSION_SIZES.get(kind, 0) if flags & EXTENDED else 0
                if length < extension_size:
                    break
                if size < end + TRAILER_SIZE:
                    need = end + TRAILER_SIZE - at
                    break
                if not self._checked(data, at, end, flags):
                    return frames
                body = start + extension_size
                extension = data[start:body]
                append((kind, flags, route, message_id, session, stamp, extension, data[body:end]))
            else:
                if size < end + TRAILER_SIZE:
                    need = end + TRAILER_SIZE - at
                    break
                if data[end : end + TRAILER_SIZE] != _ZERO:
                    self._fail(11006, "the trailer of a frame without a checksum is not zero")
                    return frames
                append((kind, flags, route, message_id, session, stamp, b"", data[start:end]))
            at = end + TRAILER_SIZE
        if at < size:
            self._check_header(data, at)
            if not self.failed:
                rest = data[at:] if at else data
                self._parts = [rest]
                self._size = len(rest)
                self._need = need
        return frames

    def _check_header(self, data: bytes, at: int) -> None:
        if data[at] != DIALECT:
            self._fail(11001, f"frame starts with {data[at]:#04x} instead of 0x01")
        elif len(data) - at >= HEADER_SIZE:
            _, kind, flags, _, _, _, _, length = HEADER.unpack_from(data, at)
            if length > self.payload_max:
                self._fail(11005, f"payload of {length} bytes is over {self.payload_max}")
            elif flags & _RESERVED:
                self._fail(11004, f"reserved flag bits {flags & _RESERVED:#06x} are set")
            elif (flags >> CONTENT_SHIFT) & 0xF > TEXT:
                self._fail(11004, f"content type {(flags >> CONTENT_SHIFT) & 0xF} is not in use")
            elif flags & EXTENDED and length < EXTENSION_SIZES.get(kind, 0):
                self._fail(11007, f"payload of {length} bytes is shorter than its extension")

    def _checked(self, data: bytes, at: int, end: int, flags: int) -> bool:
        trailer = data[end : end + TRAILER_SIZE]
        if flags & CHECKSUM:
            if U64.unpack(trailer)[0] != xxh64(data[at:end]):
                self._fail(11006, "the checksum of a frame is wrong")
                return False
        elif trailer != _ZERO:
            self._fail(11006, "the trailer of a frame without a checksum is not zero")
            return False
        return True

    def _fail(self, code: int, message: str) -> None:
        self.failed = ProtocolError(message, code=code)


class Chunks:
    """Puts messages together that came in several frames.

    Takes every frame while one is unfinished, since that is how the last chunk is told from a whole
    message. `unfinished` is how many wait for more.
    """

    def __init__(self, message_max: int = MESSAGE_MAX, unfinished_max: int = 64) -> None:
        self.message_max = message_max
        self.unfinished = 0
        self._unfinished_max = unfinished_max
        self._messages: dict[tuple[int, int, int, int], tuple[Frame, list[bytes]]] = {}
        self._size = 0

    def join(self, frame: Frame) -> Frame | None:
        """The message that this frame completes, the frame itself if it is one, else None.

        Raises ProtocolError for a chunk that does not fit; its message is dropped then.
        """
        kind, flags, route, message_id, session, _, _, body = frame
        key = (kind, route, message_id, session)
        found = self._messages.get(key)
        if found is None:
            if not flags & MORE:
                return frame
            if len(self._messages) >= self._unfinished_max:
                raise ProtocolError("too many unfinished messages", code=10007)
            found = self._messages[key] = (frame, [])
        first, pieces = found
        pieces.append(body)
        self._size += len(body)
        self.unfinished = len(self._messages)
        if len(pieces) > 1 and (flags ^ first[1]) & ~(MORE | EXTENDED | CHECKSUM):
            self._drop(key)
            raise ProtocolError("a chunk has another content type than the first", code=11007)
        if len(pieces) > 1 and flags & EXTENDED:
            self._drop(key)
            raise ProtocolError("only the first chunk may have an extension", code=11007)
        if self._size > self.message_max:
            self._drop(key)
            raise ProtocolError(f"a message is over {self.message_max} bytes", code=11005)
        if flags & MORE:
            return None
        self._drop(key)
        whole = b"".join(pieces)
        return (kind, first[1] & ~MORE, route, message_id, session, first[5], first[6], whole)

    def _drop(self, key: tuple[int, int, int, int]) -> None:
        _, pieces = self._messages.pop(key)
        self._size -= sum(map(len, pieces))
        self.unfinished = len(self._messages)


def objection(kind: int, flags: int) -> ProtocolError | None:
    """Why a frame of sound framing is answered with an error instead of being handled, if it is."""
    if not HELLO <= kind <= ACK or kind == RESOURCE_REQUEST:
        return ProtocolError(f"frame type {kind} is not known here", code=11003)
    if flags & (ENCRYPTED | POOLED | COMPRESSED):
        return ProtocolError(f"flags {flags:#06x} were not agreed", code=11018)
    if flags & EXTENDED and kind not in EXTENSION_SIZES:
        return ProtocolError(f"frame type {kind} has no extension", code=11007)
    if flags & MORE and kind not in (REQUEST, RESPONSE, EVENT, BROADCAST, MESSAGE):
        return ProtocolError(f"frame type {kind} cannot be chunked", code=11007)
    return None


def encode(
    kind: int,
    flags: int,
    route: int,
    message_id: int,
    session: int,
    stamp: int,
    payload: bytes = b"",
) -> bytes:
    """One frame. `payload` is the extension (where `flags` says so) and the body."""
    head = HEADER.pack(DIALECT, kind, flags, route, message_id, session, stamp, len(payload))
    if flags & CHECKSUM:
        data = head + payload
        return data + U64.pack(xxh64(data))
    return head + payload + _ZERO


def encode_chunks(
    kind: int,
    flags: int,
    route: int,
    message_id: int,
    session: int,
    stamp: int,
    extension: bytes,
    body: bytes,
    payload_max: int,
) -> bytes:
    """The frames of one message of any size, back to back."""
    first = payload_max - len(extension)
    if extension:
        flags |= EXTENDED
    if len(body) <= first:
        return encode(kind, flags, route, message_id, session, stamp, extension + body)
    frames = [
        encode(kind, flags | MORE, route, message_id, session, stamp, extension + body[:first])
    ]
    flags &= ~EXTENDED
    for start in range(first, len(body), payload_max):
        piece = body[start : start + payload_max]
        more = MORE if start + payload_max < len(body) else 0
        frames.append(encode(kind, flags | more, route, message_id, session, stamp, piece))
    return b"".join(frames)


def control(body: bytes) -> dict[str, Any]:
    """The map in a control body. Raises ProtocolError (11007) for anything else."""
    if not body:
        return {}
    try:
        value = _msgpack.unpack(body, _msgpack.CONTROL_DEPTH_MAX)
    except _msgpack.MalformedError as error:
        raise ProtocolError(f"control body: {error}", code=11007) from None
    if not isinstance(value, dict):
        raise ProtocolError("a control body must be a map", code=11007)
    return value


_P1, _P2, _P3, _P4, _P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_M = 0xFFFFFFFFFFFFFFFF


def xxh64(data: bytes, seed: int = 0) -> int:
    """XXH64 of `data`. Pure Python, so some hundred times slower than the broker's."""
    size = len(data)
    at = 0
    if size >= 32:
        lanes = [(seed + _P1 + _P2) & _M, (seed + _P2) & _M, seed & _M, (seed - _P1) & _M]
        blocks = size // 32
        words = struct.unpack_from(f"<{4 * blocks}Q", data)
        for first in range(0, 4 * blocks, 4):
            lanes = [_round(lanes[lane], words[first + lane]) for lane in range(4)]
        at = 32 * blocks
        one, two, three, four = lanes
        digest = (_rotate(one, 1) + _rotate(two, 7) + _rotate(three, 12) + _rotate(four, 18)) & _M
        for lane in lanes:
            digest = ((digest ^ _round(0, lane)) * _P1 + _P4) & _M
    else:
        digest = (seed + _P5) & _M
    digest = (digest + size) & _M
    while at + 8 <= size:
        word = int.from_bytes(data[at : at + 8], "little")
        digest = (_rotate(digest ^ _round(0, word), 27) * _P1 + _P4) & _M
        at += 8
    if at + 4 <= size:
        word = int.from_bytes(data[at : at + 4], "little")
        digest = (_rotate(digest ^ (word * _P1 & _M), 23) * _P2 + _P3) & _M
        at += 4
    for byte in data[at:]:
        digest = (_rotate(digest ^ (byte * _P5 & _M), 11) * _P1) & _M
    digest = ((digest ^ (digest >> 33)) * _P2) & _M
    digest = ((digest ^ (digest >> 29)) * _P3) & _M
    return digest ^ (digest >> 32)


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _M


def _round(lane: int, word: int) -> int:
    return (_rotate((lane + word * _P2) & _M, 31) * _P1) & _M
