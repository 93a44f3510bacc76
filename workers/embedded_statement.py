"""What the embedded store must know of a statement before the engine sees it; pure.

Owns: finding where an INSERT's data begins, which FORMAT was asked for, whether the statement only reads,
and whether it names a file of this machine. Knows no HTTP and no engine. It is a tokenizer, not a parser:
the engine still judges the syntax. Next: `workers.embedded_engine`, which runs the statement.

Source: https://clickhouse.com/docs/interfaces/http and https://clickhouse.com/docs/sql-reference/syntax
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

_TOKEN = re.compile(
    rb"""(?P<skip>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
    |(?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<open>[(\[{])|(?P<close>[)\]}])
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)
# Where this tokenizer and the engine's part: a comment in a comment, `$` in a name, quotes beyond ASCII. Up
# to the first of them both see the same; behind it a file's name could hide in what looks like a string.
_OPENS_COMMENT, _DOLLAR = b"/*", b"$"
_AFTER_FORMAT = re.compile(rb"[ \t\f]*\r?\n?")  # what separates a FORMAT clause from the data, exactly once
_READERS = frozenset({b"SELECT", b"WITH", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS", b"FROM"})
_FILE_WORDS = frozenset({b"INFILE", b"OUTFILE"})
# The scalar function file() and the table function python(), which sees this process's objects, ask for no
# grant. It may be called, applied, or handed to arrayMap, in brackets and with another name too; a parameter
# or escapes in a quoted name could spell it, and nothing of ours needs them.
_FILE_FUNCTION = re.compile(
    rb"""["`]?\b(?:file|python)["`]?\s*\(                          # called
    |\(\s*(?:["`]?file["`]?|\{\s*\w+\s*:\s*Identifier\s*\})(?:[)\s]|\bAS\s+["`\w]+)*,   # handed on
    |\bapply[(\s]*["`]?file\b
    |["`][^"`]*\\[^"`'\\]""",
    re.IGNORECASE | re.VERBOSE,
)
_PROCESSES = re.compile(rb"\bsystem\W{0,3}processes\b", re.IGNORECASE)


class Statement(msgspec.Struct, frozen=True):
    """One statement. For an INSERT with data, `text` ends before SETTINGS or FORMAT."""

    text: bytes
    settings: bytes  # an INSERT's SETTINGS clause: the engine wants it after the data's source
    verb: str  # the first word in upper case, "" when there is none
    format: str | None  # the FORMAT clause's; for an INSERT with data the format of that data
    data: bytes | None  # an INSERT's data that followed in the same text; None: takes no data
    names_file: bool  # INTO OUTFILE, FROM INFILE, file(), python(): what the engine serves past all grants
    several: bool  # more than one statement
    unclear: bool  # written so that the engine may read it otherwise than this module does
    inspects: bool  # KILL, or asks for the running queries: must not wait behind them

    @property
    def reads(self) -> bool:
        """True when it may be ended at any time without loss."""
        return self.verb.encode() in _READERS

    @property
    def inserts(self) -> bool:
        """True when rows may be added."""
        return self.verb == "INSERT"


class _Word(msgspec.Struct, frozen=True):
    text: bytes  # upper case
    start: int
    end: int


def parse(sql: bytes) -> Statement:
    """Tokenize `sql`, as far as needed: never into an INSERT's data."""
    seen: list[_Word] = []
    for word in _words(sql):
        seen.append(word)
        if seen[0].text == b"INSERT" and len(seen) > 1:
            ending = _insert_ending(sql, seen)
            if ending is not None:
                return ending
    verb = seen[0].text if seen else b""
    if b"INSERT" in {word.text for word in seen}:
        verb = b"INSERT"  # WITH … INSERT
    if verb == b"INSERT" and b"SELECT" not in {word.text for word in seen}:
        # As the server does: an INSERT that names no format is fed with Values.
        return _statement(sql.rstrip(b"; \t\r\n"), seen, verb, "Values", b"")
    return _statement(sql, seen, verb, _explicit_format(sql, seen), None)


def _insert_ending(sql: bytes, seen: list[_Word]) -> Statement | None:
    """The statement, if the last word seen is the one after which an INSERT's data begins."""
    last, before = seen[-1], seen[-2]
    if any(word.text in (b"SELECT", b"WITH") for word in seen):
        return None
    if last.text == b"VALUES":
        return _statement(sql[: last.start], seen, b"INSERT", "Values", sql[last.end :])
    if before.text == b"FORMAT" and not sql[before.end : last.start].strip():
        gap = _AFTER_FORMAT.match(sql, last.end)
        name = sql[last.start : last.end].decode()
        return _statement(sql[: before.start], seen, b"INSERT", name, sql[gap.end() if gap else last.end :])
    return None


def _statement(
    text: bytes, seen: list[_Word], verb: bytes, format_name: str | None, data: bytes | None
) -> Statement:
    settings = next((word.start for word in seen if word.text == b"SETTINGS"), len(text))
    if data is None or settings > len(text):
        settings = len(text)
    return Statement(
        text=text[:settings],
        settings=text[settings:],
        verb=verb.decode(),
        format=format_name,
        data=data,
        names_file=any(word.text in _FILE_WORDS for word in seen)
        or _FILE_FUNCTION.search(_blanked(text)) is not None,
        several=b";" in _blanked(text, names=True).rstrip(b"; \t\r\n"),
        unclear=_is_unclear(text),
        inspects=verb == b"KILL" or _PROCESSES.search(text) is not None,
    )


def _explicit_format(sql: bytes, seen: list[_Word]) -> str | None:
    for keyword, name in zip(reversed(seen[:-1]), reversed(seen[1:]), strict=True):
        if keyword.text == b"FORMAT" and not sql[keyword.end : name.start].strip():
            rest = _blanked(sql[name.end :]).strip(b"; \t\r\n")
            if not rest or rest[:8].upper() == b"SETTINGS":
                return sql[name.start : name.end].decode()
    return None


def _blanked(sql: bytes, *, names: bool = False) -> bytes:
    """`sql` with a space for each string literal and comment, and with `names` for each quoted name."""
    quotes = (b"'", b"$", b'"', b"`") if names else (b"'", b"$")

    def blank(match: re.Match[bytes]) -> bytes:
        hidden = match.lastgroup == "skip" or (match.lastgroup == "quoted" and match[0][:1] in quotes)
        return b" " if hidden else match[0]

    return _TOKEN.sub(blank, sql)


def _is_unclear(sql: bytes) -> bool:
    """May the engine find other tokens in `sql` than _TOKEN does?"""
    if sql.isascii() and _DOLLAR not in sql and sql.count(_OPENS_COMMENT) < 2:
        return False  # nearly every statement
    follows_word = False
    for match in _TOKEN.finditer(sql):
        kind, token = match.lastgroup, match[0]
        if kind == "skip" and token.startswith(_OPENS_COMMENT) and token.find(_OPENS_COMMENT, 1) > 0:
            return True
        if kind == "other" and (token == _DOLLAR or not token.isascii()):
            return True
        if follows_word and token.startswith(_DOLLAR):
            return True
        follows_word = kind == "word" or (kind == "other" and token.isdigit())
    return False


def _words(sql: bytes) -> Iterator[_Word]:
    """Bare words outside strings, comments and brackets."""
    depth = 0
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        elif kind == "word" and (depth <= 0 or match[0].upper() in _FILE_WORDS):
            yield _Word(match[0].upper(), match.start(), match.end())
