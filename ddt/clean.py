"""Text from outside: the one place where it is decoded, cleaned, parsed and made fit to be printed.

Captions, turns, questions, instructions, answers, prompts, keys and names of files all come through here, so
that no text that Arrow, a tokenizer or a terminal can't take goes further.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Generator, Iterator
from typing import Any

MESSAGE_CHARS = 300  # of what is told in one line
KEY_CHARS = 120  # of the name of a sample in it
TOO_DEEP = "JSON that is nested too deep"

# The longer marks first: that of UTF-16 begins that of UTF-32.
_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WIDE_MARKS = tuple(mark for mark, _ in _MARKS)  # of encodings in which a line does not end with one byte
_LINE_END = re.compile("\r\n|[\r\n\v\f\x1c-\x1f\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Control characters but tab and line feed, the byte order mark, and what one read the wrong way round is.
_DROPPED = re.compile("[\0-\x08\x0e-\x1b\x7f-\x9f\ufeff\ufffe\uffff]")
# What moves the cursor, ends a line or turns the direction of writing on a terminal.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_NOT_WINDOWS_1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]|[\x80-\xff]{4}")
_SPACE = re.compile(r"[ \t\n\r]*")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_LONG_NUMBER = 400  # digits; Python refuses to read whole numbers of some thousand, and floats end at 308


def decode_text(data: bytes) -> str:
    """Bytes that claim to be text, read by the first rule that fits; ValueError where none does.

    1. A byte order mark names the encoding: UTF-8, UTF-16 or UTF-32.
    2. UTF-8.
    3. UTF-8 with damage: the bytes that fit nowhere are left out, where characters beyond ASCII that are
       whole take at least as many.
    4. Windows-1252: every byte is defined there and at most three in a row are not ASCII, as in words of
       western languages. Other old encodings (GBK, Shift-JIS, KOI8) can't be told apart and are refused.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "ignore")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        pass
    whole = data.decode("utf-8", "ignore")
    read = whole.encode()
    if len(data) - len(read) <= sum(byte > 0x7F for byte in read):
        return whole
    if _NOT_WINDOWS_1252.search(data):
        raise ValueError("text that is neither UTF-8 nor Windows-1252")
    return data.decode("cp1252")


def clean_text(text: str) -> str:
    """The text in Unicode NFC, lines kept, with no character that is none: trimmed, and its own inverse.

    Every line separator becomes a line feed. Control characters and byte order marks are left out, and so are
    halves of a character outside the basic plane; two that stand together are joined.
    """
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    return unicodedata.normalize("NFC", _DROPPED.sub("", _LINE_END.sub("\n", text))).strip()


def typed_text(text: str, name: str) -> str:
    """A text from the command line or the standard input, cleaned; ValueError with `name` for what is none.

    Bytes that the terminal's encoding does not know come as lone surrogates; `decode_text` reads them.
    """
    try:
        return clean_text(decode_text(text.encode("utf-8", "surrogateescape")))
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return clean_text(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def text_argument(text: str, name: str) -> str:
    """The same; ValueError where nothing is left of it, too."""
    cleaned = typed_text(text, name)
    if not cleaned:
        raise ValueError(f"{name}: expected some text, got {one_line(ascii(text), KEY_CHARS)}")
    return cleaned


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError in one line for what is none, or is nested too deep.

    Of a key given twice the last counts, and NaN and Infinity are floats, as Python reads them. A whole
    number of hundreds of digits is a float.
    """
    try:
        return _DECODER.decode(decode_text(text) if isinstance(text, bytes) else text)
    except json.JSONDecodeError as error:
        raise _not_json(error) from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def parse_list(text: str) -> Iterator[tuple[str, Any]]:
    """(text, value) of each item of a JSON list, read as `parse_json` reads.

    The value of an item that is nested too deep is a ValueError. Raises one where the text is no list, and,
    after the items before it, where it breaks off.
    """
    at = _skip_space(text, 0)
    if text[at : at + 1] != "[":
        raise ValueError("not a JSON list")
    while at < len(text):  # lists one after the other are what `cat` makes of several files
        if text[at] != "[":
            raise _not_json(json.JSONDecodeError("Expecting nothing, or '['", text, at))
        at = yield from _items(text, _skip_space(text, at + 1))
        at = _skip_space(text, at)


def _items(text: str, at: int) -> Generator[tuple[str, Any], None, int]:
    """The items of the list that begins before `at`; returns where it ends."""
    while text[at : at + 1] != "]":
        start = at
        try:
            value, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _not_json(error) from None
        except RecursionError:
            value, at = ValueError(TOO_DEEP), _end_of_nested(text, at)
        yield text[start:at], value
        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise _not_json(json.JSONDecodeError("Expecting ',' or ']'", text, at))
    return at + 1


def _not_json(error: json.JSONDecodeError) -> ValueError:
    line = f"line {error.lineno}, " if error.lineno > 1 else ""
    return ValueError(f"not JSON at {line}column {error.colno} ({error.msg})")


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _end_of_nested(text: str, at: int) -> int:
    """Where the list or object that begins at `at` ends, by its brackets; ValueError where it does not."""
    depth = 0
    for found in _BRACKETS.finditer(text, at):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    raise _not_json(json.JSONDecodeError("Unterminated list or object", text, len(text)))


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) < _LONG_NUMBER else float(digits)


_DECODER = json.JSONDecoder(parse_int=_whole_number)


def one_line(text: object, most: int = MESSAGE_CHARS) -> str:
    """`text` (an exception, a message, a name) as one printable line of at most `most` characters.

    What can't be printed is written as an escape. A long text loses its middle: it begins with the place and
    ends with the reason. An exception without a message is told by its type.
    """
    line = _UNPRINTABLE.sub(_escape, " ".join(str(text).split()))
    if not line and isinstance(text, BaseException):
        line = type(text).__name__
    if len(line) <= most:
        return line
    end = most // 3
    return f"{line[: most - end - 5]} ... {line[-end:]}"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
