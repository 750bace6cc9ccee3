# SPDX-License-Identifier: Apache-2.0
"""What the project's Markdown says: its blocks, its names in back-ticks, its headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
CHANGELOG = "CHANGELOG.md"
DOCUMENTED_SERVER = "http://127.0.0.1:8080"
"""Where the docs have a server listen; tests put their own in its place."""

_FOREIGN = {"node_modules", "output"}


@dataclass(frozen=True)
class Block:
    """What stands between two lines of back-ticks."""

    document: str
    heading: str
    language: str
    text: str


@dataclass
class Document:
    """One file."""

    name: str
    """Its path, relative to the root."""
    blocks: list[Block] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    """Level and text of each."""
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    """What stands in back-ticks within a line."""

    @property
    def words(self) -> str:
        """All that is code, one piece a line."""
        return "\n".join([*self.code, *(block.text for block in self.blocks)])


@cache
def documents() -> dict[str, Document]:
    """Every Markdown file, by its path."""
    files = [*ROOT.glob("*.md")]
    for folder in sorted(ROOT.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            files += folder.rglob("*.md")
    own = [file for file in sorted(files) if not _FOREIGN & {*file.parts}]
    return {document.name: document for document in map(_read, own)}


def blocks() -> list[Block]:
    """Those of all documents, in order."""
    return [block for document in documents().values() for block in document.blocks]


def present() -> list[Document]:
    """Those that tell of the present, not of what changed."""
    return [document for name, document in documents().items() if name != CHANGELOG]


def spans() -> list[tuple[str, str]]:
    """A document's name and what stands in back-ticks within a line of it."""
    return [(document.name, span) for document in present() for span in document.code]


def snippets(language: str) -> list[str]:
    """The blocks of a programming language, in all documents."""
    return [block.text for block in blocks() if block.language == language]


def _read(file: Path) -> Document:
    document = Document(file.relative_to(ROOT).as_posix())
    tokens = MarkdownIt("commonmark").enable("table").parse(file.read_text(encoding="utf-8"))
    heading = ""
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            heading = "".join(child.content for child in token.children or ())
            document.headings.append((int(before.tag[1:]), heading))
            document.anchors.add(_anchor(heading, document.anchors))
        if token.type == "fence":
            language = token.info.strip()
            document.blocks.append(Block(document.name, heading, language, token.content))
        for child in token.children or ():
            document.links += _links(child)
            if child.type == "code_inline":
                document.code.append(child.content)
    return document


def _links(token: Token) -> Iterator[str]:
    for name in ("href", "src"):
        if target := token.attrGet(name):
            yield str(target)


def _anchor(heading: str, taken: set[str]) -> str:
    """A heading's anchor, as GitHub makes it."""
    anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    numbered = (f"{anchor}-{number}" for number in range(1, len(taken) + 1))
    return anchor if anchor not in taken else next(each for each in numbered if each not in taken)
