"""BIND's configuration grammar: statements are words and { blocks } up to a semicolon. Pure; a component's door too.

Read from `named-checkconf -p`, which is canonical and has the includes in it, or from a file as it stands. What a
statement means is its reader's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from balancer.errors import Ns7Error

MOST_DEPTH = 32                 # blocks in blocks
_TOKEN = re.compile(r'\s+|"((?:[^"\\]|\\.)*)"|([{};])|([^\s"{};]+)', re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)


class ConfError(Ns7Error):
    """Text that is not a configuration of named."""


class Word(NamedTuple):
    """One word of a statement; quoted tells how it was written."""

    text: str
    quoted: bool = False

    def __str__(self) -> str:
        return f'"{self.text}"' if self.quoted else self.text


Statement = tuple["Word | list[Statement]", ...]     # words, and blocks of statements


def parse(text: str) -> list[Statement]:
    """The statements of a configuration; ConfError where it ends too soon or has a stray bracket."""
    stack: list[tuple[list[Statement], list[Word | list[Statement]]]] = []
    block: list[Statement] = []
    words: list[Word | list[Statement]] = []
    at = 0
    while at < len(text):
        if text[at] in "/#" and (comment := _COMMENT.match(text, at)):
            at = comment.end()
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise ConfError(f"line {text.count(chr(10), 0, at) + 1}: a string without an end")
        at = match.end()
        quoted, sign, plain = match.groups()
        if quoted is not None:
            words.append(Word(quoted, True))
        elif plain is not None:
            words.append(Word(plain))
        elif sign == "{":
            if len(stack) >= MOST_DEPTH:
                raise ConfError("blocks are nested too deeply")
            stack.append((block, words))
            block, words = [], []
        elif sign == "}":
            if not stack or words:
                raise ConfError(f"line {text.count(chr(10), 0, at) + 1}: a stray bracket")
            inner, (block, words) = block, stack.pop()
            words.append(inner)
        elif sign == ";" and words:
            block.append(tuple(words))
            words = []
    if stack or words:
        raise ConfError("the end is missing")
    return block


def render(statements: Iterable[Statement], indent: str = "") -> str:
    """The statements as text that `parse` reads back."""
    return "".join(f"{indent}{_inline(statement, indent)};\n" for statement in statements)


def _inline(statement: Statement, indent: str) -> str:
    return " ".join(str(part) if isinstance(part, Word) else f"{{\n{render(part, indent + '    ')}{indent}}}"
                    for part in statement)


def word(statement: Statement, number: int) -> str:
    """The text of one of its words, "" for a block or when there is none."""
    part = statement[number] if number < len(statement) else None
    return part.text if isinstance(part, Word) else ""


def body(statement: Statement) -> list[Statement]:
    """Its first block."""
    return next((part for part in statement if isinstance(part, list)), [])


def value(statements: Iterable[Statement], name: str) -> str | None:
    """The first word after `name`, of a block the first word in it; None when there is no such statement."""
    for statement in statements:
        if word(statement, 0) == name:
            inner = body(statement)
            return word(statement, 1) or (word(inner[0], 0) if inner else "")
    return None
