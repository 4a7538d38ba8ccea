"""Hints that are text, because of `from __future__ import annotations`, on every Python."""

from __future__ import annotations

import dataclasses
import unittest

import fake  # First, because it finds the package.
from plugbus import InvalidArgument
from plugbus._schema import Signature


@dataclasses.dataclass
class Line:
    text: str
    number: int | None = None


def method(lines: list[Line], limit: int | str | None = None) -> dict[str, int]:
    """The bar stands for Union, which Python 3.9 does not know by itself."""
    return {}


class Future(unittest.TestCase):
    def test_hints(self):
        signature = Signature(method)
        bound = signature.bind({"lines": [{"text": "a", "number": 4}], "limit": "x"})
        self.assertEqual(bound, {"lines": [Line("a", 4)], "limit": "x"})
        with self.assertRaises(InvalidArgument) as caught:
            signature.bind({"lines": [{"text": "a", "number": "b"}]})
        self.assertEqual(caught.exception.field, "lines[0].number")
        self.assertEqual(signature.result["type"], "object")


if __name__ == "__main__":
    unittest.main()
