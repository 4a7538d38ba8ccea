"""Values: MessagePack, checksums, hints and patterns."""

import dataclasses
import enum
import struct
import typing
import unittest
from typing import Dict, List, Literal, Optional, Tuple, Union

import fake  # First, because it finds the package.
from plugbus import InvalidArgument, _msgpack, _wire
from plugbus._client import matches
from plugbus._schema import Signature

# Every length at which MessagePack changes its form, and those beside it.
SIZES = (0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536)


class MessagePack(unittest.TestCase):
    def test_round_trip(self):
        values = [None, True, False, 0.5, -1.5, float("inf"), {}, [], {"a": [1, {"b": None}]}]
        for power in range(65):
            for near in (-1, 0, 1):
                values += [v for v in (2**power + near, near - 2**power) if -(2**63) <= v < 2**64]
        for size in SIZES:
            values += ["x" * size, b"x" * size, [1] * size, {str(n): n for n in range(size)}]
        values += [
            _msgpack.Ext(code, b"x" * size) for code in (-128, 5) for size in (1, 3, 16, 300)
        ]
        for value in values:
            found = _msgpack.unpack(_msgpack.pack(value))
            self.assertEqual(found, value)
            self.assertIs(type(found), type(value))

    def test_what_cannot_be_sent(self):
        for value in (object(), 2**64, -(2**63) - 1):
            with self.assertRaises((TypeError, ValueError)):
                _msgpack.pack(value)
        deep = []
        for _ in range(1000):
            deep = [deep]
        with self.assertRaises(ValueError):
            _msgpack.pack(deep)

    def test_every_cut_is_malformed(self):
        data = _msgpack.pack({"a": [1, 300, -5, 2.5, "text", b"bytes", None], "b": {"c": True}})
        for cut in range(len(data)):
            with self.assertRaises(_msgpack.MalformedError):
                _msgpack.unpack(data[:cut])
        with self.assertRaises(_msgpack.MalformedError):
            _msgpack.unpack(data + b"\0")

    def test_hostile(self):
        hostile = (
            b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
            b"\x91" * 200 + b"\xc0", b"\xa1\xff", b"\x81\x90\x01", b"",
        )  # fmt: skip
        for data in hostile:
            with self.assertRaises(_msgpack.MalformedError):
                _msgpack.unpack(data)

    def test_arbitrary_bytes_never_do_worse(self):
        for first in range(256):
            for second in range(256):
                try:
                    _msgpack.unpack(bytes((first, second, 0, 0, 0)))
                except _msgpack.MalformedError:
                    pass


class Checksum(unittest.TestCase):
    def test_known_digests(self):
        known = {
            b"": 0xEF46DB3751D8E999,
            b"a": 0xD24EC4F1A98C6E5B,
            b"abc": 0x44BC2CF5AD770999,
            b"Nobody inspects the spammish repetition": 0xFBCEA83C8A378BF1,
        }
        for data, digest in known.items():
            self.assertEqual(_wire.xxh64(data), digest)

    def test_frame(self):
        frame = _wire.encode(_wire.MESSAGE, _wire.CHECKSUM, 1, 1, 9, 0, b"body")
        self.assertEqual(len(_wire.Decoder().feed(frame)), 1)
        for at in range(36, len(frame)):
            broken = bytearray(frame)
            broken[at] ^= 1
            decoder = _wire.Decoder()
            self.assertEqual(decoder.feed(bytes(broken)), [])
            self.assertEqual(decoder.failed.code, 11006)


class Decoding(unittest.TestCase):
    def test_cuts_do_not_change_frames(self):
        stream = b"".join(
            [
                _wire.encode(_wire.MESSAGE, 0x100, 7, 1, 9, 5, b"one"),
                _wire.encode(_wire.PING, 0, 0, 2, 0, 0),
                _wire.encode(_wire.RESPONSE, 0x101, 7, 3, 9, 5, struct.pack("<Q", 4) + b"x"),
            ]
        )
        whole = _wire.Decoder().feed(stream)
        self.assertEqual(len(whole), 3)
        for first in range(len(stream) + 1):
            for second in range(first, len(stream) + 1):
                decoder = _wire.Decoder()
                frames = decoder.feed(stream[:first])
                frames += decoder.feed(stream[first:second])
                frames += decoder.feed(stream[second:])
                self.assertEqual(frames, whole)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Item:
    name: str
    price: float = 1.0
    tags: List[str] = dataclasses.field(default_factory=list)
    parts: "Optional[List[Item]]" = None


class Place(typing.TypedDict):
    town: str


class Hints(unittest.TestCase):
    def fits(self, hint, value, result=None):
        def method(x):
            """The hint is set below, so that one test serves them all."""

        method.__annotations__ = {"x": hint}
        found = Signature(method).bind({"x": value})["x"]
        wanted = value if result is None else result
        self.assertEqual(found, wanted)
        self.assertIs(type(found), type(wanted))

    def misfit(self, hint, value, field):
        with self.assertRaises(InvalidArgument) as caught:
            self.fits(hint, value)
        self.assertEqual(caught.exception.field, field)
        self.assertIn(f"`{field}`", caught.exception.message)
        self.assertTrue(caught.exception.expected)

    def test_values_that_fit(self):
        self.fits(str, "a")
        self.fits(int, 3)
        self.fits(float, 3, 3.0)
        self.fits(float, 2.5)
        self.fits(bool, True)
        self.fits(bytes, b"a")
        self.fits(bytes, "YQ==", b"a")
        self.fits(None, None)
        self.fits(Optional[int], None)
        self.fits(Optional[int], 5)
        self.fits(Union[int, str], "x")
        self.fits(List[int], [1, 2])
        self.fits(list, [1, "x"])
        self.fits(Dict[str, int], {"a": 1})
        self.fits(Tuple[int, str], [1, "a"], (1, "a"))
        self.fits(Tuple[int, ...], [1, 2, 3], (1, 2, 3))
        self.fits(Literal["a", 1], 1)
        self.fits(Colour, "red", Colour.RED)
        self.fits(Place, {"town": "Ulm"})
        self.fits(Item, {"name": "a", "price": 2}, Item("a", 2.0))
        nested = {"name": "a", "parts": [{"name": "b"}]}
        self.fits(Item, nested, Item("a", parts=[Item("b")]))
        self.fits(typing.Any, [1, {"a": b"x"}])

    def test_values_that_do_not(self):
        self.misfit(str, 1, "x")
        self.misfit(int, True, "x")
        self.misfit(int, 1.0, "x")
        self.misfit(bool, 1, "x")
        self.misfit(float, "1", "x")
        self.misfit(bytes, "not base64!", "x")
        self.misfit(Optional[int], "a", "x")
        self.misfit(List[int], [1, "a"], "x[1]")
        self.misfit(Dict[str, int], {"a": "b"}, "x.a")
        self.misfit(Tuple[int, str], [1], "x")
        self.misfit(Literal["a", 1], True, "x")
        self.misfit(Colour, "green", "x")
        self.misfit(Place, {}, "x.town")
        self.misfit(Item, {"name": "a", "prize": 1}, "x.prize")
        self.misfit(Item, {"name": "a", "parts": [{"name": 1}]}, "x.parts[0].name")
        self.misfit(Optional[Item], {"name": 5}, "x.name")

    def test_names_of_arguments(self):
        def method(width: int, height: int = 2):
            """Two arguments."""

        signature = Signature(method)
        self.assertEqual(signature.bind({"width": 1}), {"width": 1})
        with self.assertRaises(InvalidArgument) as caught:
            signature.bind({"widht": 1})
        self.assertEqual(caught.exception.field, "widht")
        self.assertIn("did you mean `width`?", caught.exception.message)
        with self.assertRaises(InvalidArgument) as caught:
            signature.bind({})
        self.assertEqual(caught.exception.field, "width")
        with self.assertRaises(InvalidArgument):
            signature.bind([1])

    def test_schema(self):
        def method(
            name: str, colour: Colour = Colour.RED, item: Optional[Item] = None
        ) -> List[int]:
            """Anything."""

        signature = Signature(method)
        item = {
            "type": "object",
            "title": "Item",
            "properties": {
                "name": {"type": "string"},
                "price": {"type": "number"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "parts": {
                    "anyOf": [
                        {"type": "array", "items": {"type": "object", "title": "Item"}},
                        {"type": "null"},
                    ]
                },
            },
            "required": ["name"],
            "additionalProperties": False,
        }
        self.assertEqual(
            signature.schema,
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "colour": {"enum": ["red", "blue"], "default": "red"},
                    "item": {"anyOf": [item, {"type": "null"}], "default": None},
                },
                "required": ["name"],
                "additionalProperties": False,
            },
        )
        self.assertEqual(signature.result, {"type": "array", "items": {"type": "integer"}})

    def test_hints_that_mean_nothing(self):
        def method(x: socket_like):
            """A class without a form in JSON."""

        with self.assertRaises(TypeError) as caught:
            Signature(method)
        self.assertIn("`x`", str(caught.exception))

        def positional(*values: int):
            """Arguments have no order on the wire."""

        with self.assertRaises(TypeError):
            Signature(positional)


class socket_like:
    """Nothing that could be sent."""


class Patterns(unittest.TestCase):
    def test_patterns(self):
        cases = {
            ("a.b", "a.b"): True, ("a.*", "a.b"): True, ("a.*", "a"): False, (">", "a.b.c"): True,
            ("a.*", "a.b.c"): False, ("a.>", "a.b.c"): True, ("a.>", "a"): False,
            ("*.b", "a.b"): True, ("*.b", "a.c"): False, ("a", "b"): False,
        }  # fmt: skip
        for (pattern, topic), wanted in cases.items():
            self.assertEqual(matches(pattern, topic), wanted, (pattern, topic))


if __name__ == "__main__":
    unittest.main()
