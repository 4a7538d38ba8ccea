"""Finds out what is in notes: headings, links, tags and words.

The reader sends files down the channel `files`, in parts and in order. For each part the event
`notes.extracted` says what is in it. One topic bears everything, because the broker promises order
within a topic: a file that is removed after it was changed is removed last at the subscriber too.
"""

from __future__ import annotations

import re
from typing import Any, Iterator

import plugbus

TOPIC = "notes.extracted"
PASSAGE_LINES_MAX = 10  # A longer paragraph is cut, so that an answer points at a place.
MARKDOWN = (".md", ".markdown")

plugin = plugbus.Plugin("extract")
notes: dict[str, "Note"] = {}  # Those of which more parts will come.


@plugin.channel("files")
def on_file(message: plugbus.Message) -> None:
    "Parts of files, in order: {path, revision, line, text, last}, or {path, revision, removed}."
    value = message.value
    if "text" not in value:
        notes.pop(value.get("path"), None)
        plugin.publish(TOPIC, value)
        return
    path = value["path"]
    if value["line"] == 1 or path not in notes:
        notes[path] = Note(path)
    found = notes[path].read(value["line"], value["text"].split("\n"))
    if value["last"]:
        del notes[path]
    header = {key: value[key] for key in ("path", "revision", "line", "last")}
    plugin.publish(TOPIC, {**header, **found})


class Note:
    """What has to be remembered from one part of a file to the next."""

    def __init__(self, path: str) -> None:
        self.is_markdown = path.lower().endswith(MARKDOWN)
        self.heading = ""
        self.fence = ""  # What will close the block of code that is open.
        self.in_front_matter = False
        self.front_matter_key = ""
        self.paragraph = ""  # The line before, where an underline would make it a heading.
        self.passage: dict[str, Any] = {}

    def read(self, first: int, lines: list[str]) -> dict[str, list[Any]]:
        """What is in the next lines of the file, of which the first has the number `first`."""
        found: dict[str, list[Any]] = {"passages": [], "headings": [], "links": [], "tags": []}
        for number, line in enumerate(lines, first):
            if self.is_markdown:
                self._markdown(number, line, found)
            self._passage(number, line, found["passages"])
        self._end_passage(found["passages"])
        return found

    def _markdown(self, number: int, line: str, found: dict[str, list[Any]]) -> None:
        before, self.paragraph = self.paragraph, ""
        if self.in_front_matter or (number == 1 and line.rstrip() == "---"):
            self._front_matter(number, line, found["tags"])
            return
        fence = FENCE.match(line)
        if self.fence:
            if fence and fence[1].startswith(self.fence) and not fence[2].strip():
                self.fence = ""
            return
        if fence and not (fence[1][0] == "`" and "`" in fence[2]):
            self.fence = fence[1]
            return
        prose = CODE_SPAN.sub(" ", line)
        heading = HEADING.match(line)
        if heading:
            self._end_passage(found["passages"])
            self._head(number, len(heading[1]), heading[2] or "", found["headings"])
        elif before and UNDERLINE.match(line):
            self._head(number - 1, 1 if line.lstrip()[0] == "=" else 2, before, found["headings"])
        elif not BLOCK.match(line):
            self.paragraph = line.strip()
        prose = HEADING_MARK.sub(" ", prose)
        for target, text in links(prose):
            found["links"].append({"line": number, "target": target, "text": text})
        for tag in TAG.findall(LINK_TARGET.sub(" ", prose)):
            found["tags"].append({"line": number, "tag": tag.lower()})

    def _head(self, number: int, level: int, text: str, headings: list[Any]) -> None:
        self.heading = LINK.sub(lambda link: link[1], text.strip()).replace("`", "")
        headings.append({"line": number, "level": level, "text": self.heading})

    def _front_matter(self, number: int, line: str, tags: list[Any]) -> None:
        """The lines between `---` at the top: only `tags` is of interest here."""
        if line.rstrip() in ("---", "..."):
            self.in_front_matter = number == 1
            return
        key, colon, rest = line.partition(":")
        if colon and not line[0].isspace() and not line.startswith("-"):
            self.front_matter_key = key.strip().lower()
        else:
            rest = line.strip().removeprefix("-") if line.strip().startswith("-") else ""
        if self.front_matter_key in ("tag", "tags"):
            for tag in rest.strip().strip("[]").split(","):
                tag = tag.strip().strip("\"'").lstrip("#").lower()
                if tag:
                    tags.append({"line": number, "tag": tag})

    def _passage(self, number: int, line: str, passages: list[Any]) -> None:
        """Passages are what is found: consecutive lines with something on them."""
        if not line.strip():
            self._end_passage(passages)
            return
        if not self.passage:
            self.passage = {"line": number, "heading": self.heading, "lines": [], "words": []}
        self.passage["lines"].append(line)
        self.passage["words"].append(words(line))
        if len(self.passage["lines"]) >= PASSAGE_LINES_MAX:
            self._end_passage(passages)

    def _end_passage(self, passages: list[Any]) -> None:
        if self.passage:
            passages.append(self.passage)
            self.passage = {}


def words(line: str) -> list[str]:
    """The words of a line in lower case: runs of letters and digits."""
    return WORD.findall(line.lower())


def links(line: str) -> Iterator[tuple[str, str]]:
    """Target and text of every link: inline, reference definition, wiki, bare."""
    for link in LINK.finditer(line):
        yield link[2] or link[3], link[1]
    definition = DEFINITION.match(line)
    if definition:
        yield definition[2], definition[1]
    for link in WIKI_LINK.finditer(line):
        yield link[1].strip(), (link[2] or link[1]).strip()
    for link in BARE_LINK.finditer(line):
        yield link[0], ""


WORD = re.compile(r"[^\W_]+")
HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
HEADING_MARK = re.compile(r"^ {0,3}#{1,6}(?=\s|$)")
UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
BLOCK = re.compile(r"\s*$|\s*([-*+>|]|\d+[.)])(\s|$)| {4}|\t")  # What an underline does not head.
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)")
LINK = re.compile(r"!?\[([^\[\]]*)\]\(\s*(?:<([^<>]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))[^()]*\)")
LINK_TARGET = re.compile(r"\]\([^()]*\)|<[^<>\s]+>|\[\[[^\]]*\]\]|\w+://\S+")
DEFINITION = re.compile(r" {0,3}\[([^\[\]]+)\]:\s*<?([^\s<>]+)")
WIKI_LINK = re.compile(r"\[\[([^\[\]|]+)(?:\|([^\[\]]+))?\]\]")
BARE_LINK = re.compile(r"(?<![(\w:<])(?<!\]: )https?://[^\s<>)\]]*[^\s<>)\].,;:!?]|(?<=<)https?://[^\s<>]+(?=>)")
TAG = re.compile(r"(?<![\w#&/])#([^\W\d_][\w/-]*)")

if __name__ == "__main__":
    plugin.run()
