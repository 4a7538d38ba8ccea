"""Tests of what `extract` finds. Run them with the SDK on the path: python3 -m unittest."""

import unittest

from extract import Note, links, words


def read(text: str, path: str = "note.md"):
    return Note(path).read(1, text.split("\n"))


class Headings(unittest.TestCase):
    def check(self, text, *expected):
        found = [(it["line"], it["level"], it["text"]) for it in read(text)["headings"]]
        self.assertEqual(found, list(expected), text)

    def test_marked(self):
        self.check("# One\n\n### Three ###", (1, 1, "One"), (3, 3, "Three"))
        self.check("#Not\n####### Not\n    # Not")
        self.check("## With `code` and [a link](x.md)", (1, 2, "With code and a link"))

    def test_underlined(self):
        self.check("One\n===\n\nTwo\n---", (1, 1, "One"), (4, 2, "Two"))
        self.check("- item\n---\n\n---")

    def test_code_has_none(self):
        self.check("```sh\n# comment\n```\n# Heading", (4, 1, "Heading"))
        self.check("~~~~\n# a\n~~~\n# b\n~~~~\n# c", (6, 1, "c"))

    def test_plain_text_has_none(self):
        self.assertEqual(read("# One #tag [a](b)", "note.txt")["headings"], [])
        self.assertEqual(read("# One #tag [a](b)", "note.txt")["tags"], [])


class Links(unittest.TestCase):
    def check(self, line, *expected):
        self.assertEqual(list(links(line)), list(expected), line)

    def test_kinds(self):
        self.check("see [the spec](spec.md#frames \"title\") now", ("spec.md#frames", "the spec"))
        self.check("[a](<b c.md>) ![i](i.png)", ("b c.md", "a"), ("i.png", "i"))
        self.check("[x](a_(b).md)", ("a_(b).md", "x"))
        self.check("[[Other note]] and [[other|Text]]", ("Other note", "Other note"), ("other", "Text"))
        self.check("[ref]: https://example.org/x", ("https://example.org/x", "ref"))
        self.check("at https://example.org/a, or <https://example.org/b>",
                   ("https://example.org/a", ""), ("https://example.org/b", ""))

    def test_code_has_none(self):
        self.assertEqual(read("`[a](b)` and\n\n```\n[c](d)\n```")["links"], [])


class Tags(unittest.TestCase):
    def check(self, text, *expected):
        found = [(it["line"], it["tag"]) for it in read(text)["tags"]]
        self.assertEqual(found, list(expected), text)

    def test_in_text(self):
        self.check("# Heading\na #Tag and #two/parts, not a#b &#35; #1", (2, "tag"), (2, "two/parts"))
        self.check("[x](y.md#anchor) <https://a.b/#c> https://a.b/#d `#e` [[f#g]]")

    def test_in_front_matter(self):
        self.check("---\ntitle: x\ntags: [A, 'b']\n---\n#c", (3, "a"), (3, "b"), (5, "c"))
        self.check("---\ntags:\n  - a\n  - b\nother:\n  - c\n---\n", (3, "a"), (4, "b"))


class Passages(unittest.TestCase):
    def test_lines_and_words(self):
        found = read("# A\n\nTwo words,\nthen_more\n\nEnd")["passages"]
        self.assertEqual([(it["line"], it["heading"], it["words"]) for it in found], [
            (1, "A", [["a"]]),
            (3, "A", [["two", "words"], ["then", "more"]]),
            (6, "A", [["end"]]),
        ])

    def test_long_ones_are_cut(self):
        found = read("\n".join(f"line {n}" for n in range(1, 26)))["passages"]
        self.assertEqual([(it["line"], len(it["lines"])) for it in found], [(1, 10), (11, 10), (21, 5)])

    def test_parts_continue(self):
        note = Note("note.md")
        note.read(1, ["# A", "```"])
        found = note.read(3, ["# code", "```", "# B", "text"])
        self.assertEqual([it["text"] for it in found["headings"]], ["B"])
        self.assertEqual([it["heading"] for it in found["passages"]], ["A", "B"])

    def test_words_of_any_language(self):
        self.assertEqual(words("Größe, naïve café: 42 Привет"), ["größe", "naïve", "café", "42", "привет"])


if __name__ == "__main__":
    unittest.main()
