"""The bytes of docs/protocol/vectors, which every SDK must understand and make."""

import json
import pathlib
import unittest

from fake import KINDS, NAMES  # First, because it finds the package.
from plugbus import _msgpack, _plugin, _wire
from plugbus._client import matches
from plugbus._errors import ProtocolError

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "docs" / "protocol" / "vectors"
FLAGS = ("extended", "checksum", "compressed", "encrypted", "more", "no-reply", "pooled")
CONTENTS = ("raw", "msgpack", "json", "protobuf", "text")


def load(name):
    path = FOLDER / name
    if not path.exists():
        raise unittest.SkipTest(f"{path} is not there")
    found = json.loads(path.read_text())
    return found.get("vectors", found)


def body_of(body):
    """The bytes that the readable form of a body stands for; None where maps leave a choice."""
    (form, value), *rest = body.items()
    assert not rest, body
    if form == "hex":
        return bytes.fromhex(value)
    if form == "text":
        return value.encode()
    if form == "accepted":
        return value.to_bytes(8, "little")
    if form == "credit":
        return value["messages"].to_bytes(8, "little") + value["bytes"].to_bytes(8, "little")
    if form == "redelivery":
        return value["last"].to_bytes(8, "little") + value["attempt"].to_bytes(4, "little")
    if form == "msgpack":
        return _msgpack.pack(value)
    if form == "hello":
        return b"PLUGBUS\n" + _msgpack.pack(value)
    return None


def extension_of(kind, extension):
    if extension is None:
        return b""
    if "session" in extension:
        return _wire.CALL_REFERENCE.pack(extension["session"])
    trace = bytes.fromhex(extension["trace"])
    if kind == "request":
        numbers = (extension["deadline_ms"], 0, trace, extension["span"], extension["nonce"])
        return _wire.REQUEST_EXTENSION.pack(*numbers)
    numbers = (extension["key"], trace, extension["span"], extension["nonce"])
    return _wire.MESSAGE_EXTENSION.pack(*numbers)


class Frames(unittest.TestCase):
    def check(self, vector):
        data = bytes.fromhex(vector["bytes"])
        wanted = vector["frame"]
        decoder = _wire.Decoder(vector.get("payload_max", _wire.PAYLOAD_MAX))
        # Byte by byte, so that every place at which a frame can be cut is tried.
        frames = [frame for at in range(len(data)) for frame in decoder.feed(data[at : at + 1])]
        self.assertIsNone(decoder.failed)
        self.assertEqual(len(frames), 1)
        kind, flags, route, message_id, session, stamp, extension, body = frames[0]
        self.assertEqual(KINDS.get(kind, kind), wanted["type"])
        names = [name for bit, name in enumerate(FLAGS) if flags >> bit & 1]
        self.assertEqual(names, wanted["flags"])
        self.assertEqual(CONTENTS[flags >> 8 & 15], wanted["content"])
        numbers = [wanted[key] for key in ("route", "message_id", "session", "timestamp")]
        self.assertEqual([route, message_id, session, stamp], numbers)
        self.assertEqual(extension, extension_of(wanted["type"], wanted.get("extension")))
        objection = _wire.objection(kind, flags)
        if "answer" in vector and vector["answer"] in (11003, 11007, 11018):
            self.assertIsNotNone(objection)
            self.assertEqual(objection.code, vector["answer"])
        if "compressed" in wanted["flags"]:
            self.assertEqual(objection.code, 11018)
            return
        expected = body_of(wanted["body"])
        if expected is not None:
            form, value = next(iter(wanted["body"].items()))
            if form in ("msgpack", "hello"):
                start = 8 if form == "hello" else 0
                self.assertEqual(_msgpack.unpack(body[start:]), value)
            self.assertEqual(body, expected)
        number = NAMES.get(wanted["type"], wanted["type"])
        fields = (number, flags, route, message_id, session, stamp, extension + body)
        self.assertEqual(_wire.encode(*fields), data)

    def test_frames(self):
        for name in ("frames.json", "by-hand.json"):
            for vector in load(name):
                with self.subTest(file=name, vector=vector["name"]):
                    self.check(vector)

    def test_framing_errors(self):
        tried = 0
        for vector in load("errors.json"):
            if vector["stage"] != "framing":
                continue
            with self.subTest(vector=vector["name"]):
                data = bytes.fromhex(vector["bytes"])
                for cut in range(len(data) + 1):
                    decoder = _wire.Decoder(vector.get("payload_max", _wire.PAYLOAD_MAX))
                    decoder.feed(data[:cut])
                    decoder.feed(data[cut:])
                    self.assertIsNotNone(decoder.failed)
                    self.assertEqual(decoder.failed.code, vector["error"])
                    self.assertEqual(decoder.feed(data), [])
            tried += 1
        self.assertGreater(tried, 10)

    def test_malformed_bodies(self):
        names = {
            "open-cut-short", "open-with-bytes-behind", "open-with-invalid-utf-8",
            "unsubscribe-not-a-map", "nested-too-deep", "string-of-4-gib", "list-of-4-gib",
        }  # fmt: skip
        tried = set()
        for vector in load("errors.json"):
            if vector["name"] in names:
                tried.add(vector["name"])
                with self.subTest(vector=vector["name"]):
                    (frame,) = _wire.Decoder().feed(bytes.fromhex(vector["bytes"]))
                    with self.assertRaises(ProtocolError) as caught:
                        _wire.control(frame[7])
                    self.assertEqual(caught.exception.code, vector["error"])
        self.assertEqual(tried, names)

    def test_bodies(self):
        for vector in load("bodies.json"):
            with self.subTest(vector=vector["name"]):
                data = bytes.fromhex(vector["bytes"])
                self.assertEqual(_wire.control(data), vector["value"])
                if "means" not in vector:
                    self.assertEqual(_msgpack.pack(vector["value"]), data)


class Chunked(unittest.TestCase):
    def test_chunks(self):
        for vector in load("chunks.json"):
            with self.subTest(vector=vector["name"]):
                self.check(vector)

    def check(self, vector):
        chunks = _wire.Chunks(
            vector.get("message_max", _wire.MESSAGE_MAX), vector.get("unfinished_max", 64)
        )
        frames = _wire.Decoder().feed(bytes.fromhex("".join(vector["frames"])))
        if any(frame[1] & _wire.COMPRESSED for frame in frames):
            self.assertEqual(_wire.objection(frames[0][0], frames[0][1]).code, 11018)
            return
        joined = []
        code = None
        for frame in frames:
            try:
                objection = _wire.objection(frame[0], frame[1])
                if objection:
                    raise objection
                message = chunks.join(frame)
            except ProtocolError as error:
                code = error.code
                break
            if message is not None and frame[0] != _wire.PING:
                joined.append(
                    {
                        "type": KINDS[message[0]],
                        "route": message[2],
                        "message_id": message[3],
                        "body": message[7].decode(),
                    }
                )
        self.assertEqual(code, vector.get("error"))
        if code is None:
            self.assertEqual(joined, vector["messages"])
            self.assertEqual(chunks.unfinished, 0)


class Names(unittest.TestCase):
    def test_names(self):
        found = load("names.json")
        kinds = (
            ("plugin", _plugin._ID), ("method", _plugin._METHOD), ("channel", _plugin._CHANNEL),
        )  # fmt: skip
        for kind, grammar in kinds:
            for name in found[kind]["valid"]:
                _plugin._check_name(grammar, kind, name)
            for name in found[kind]["invalid"]:
                with self.subTest(kind=kind, name=name), self.assertRaises(ValueError):
                    _plugin._check_name(grammar, kind, name)

    def test_patterns(self):
        for case in load("names.json")["matches"]:
            for topic in case["topics"]:
                self.assertTrue(matches(case["pattern"], topic), (case["pattern"], topic))
            for topic in case["not"]:
                self.assertFalse(matches(case["pattern"], topic), (case["pattern"], topic))


if __name__ == "__main__":
    unittest.main()
