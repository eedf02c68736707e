"""Text from outside: what is read, what is left out, what is refused, and what a message may hold."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddt.clean import (
    MESSAGE_CHARS,
    clean_text,
    decode_text,
    one_line,
    parse_json,
    parse_list,
    text_argument,
    typed_text,
)

GREETING = "Grüße, 你好 😀"


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff"),
     ("utf-32-le", b"\xff\xfe\0\0"), ("utf-32-be", b"\0\0\xfe\xff")],
)  # fmt: skip
def test_a_byte_order_mark_names_the_encoding(encoding, mark):
    assert decode_text(mark + GREETING.encode(encoding)) == GREETING


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"caf\xe9 at night", "café at night"),
        (b"\x93quoted\x94 \x96 5\x80", "“quoted” – 5€"),
        ("你好 world".encode() + b"\xe4\xbd", "你好 world"),  # cut within a character
        ("né ".encode() + b"\xff" + b"ok", "né ok"),
        (b"\xff\xfea", ""),  # UTF-16 cut within its only character
        (b"\xed\xa0\xbd\xed\xb8\x80", "\ud83d\ude00"),  # CESU-8: halves apart, which clean_text joins
    ],
)
def test_text_that_is_not_utf_8_is_read_by_a_stated_rule(data, text):
    assert decode_text(data) == text


OLD = [
    ("你好世界", "gbk"), ("中文标题很长", "gbk"), ("猫が好き", "sjis"), ("猫が好きです", "sjis"),
    ("привет", "koi8-r"), ("ПРИВЕТ", "cp1251"),
]  # fmt: skip


@pytest.mark.parametrize("data", [text.encode(encoding) for text, encoding in OLD])
def test_other_old_encodings_are_refused_not_guessed(data):
    with pytest.raises(ValueError, match="neither UTF-8 nor Windows-1252"):
        decode_text(data)


def test_cleaned_text_keeps_its_lines_and_loses_what_is_no_character():
    assert clean_text("\ufeff a\0b\x07\r\nc\u2028d\u2029e\x85f\tg \x1b[1m ") == "ab\nc\nd\ne\nf\tg [1m"
    assert clean_text("half \ud83d") == "half" and clean_text("\udc00x") == "x"
    assert clean_text("\ud83d\ude00") == "😀"
    assert clean_text("e\0\u0301") == "é"  # composed after the control character has gone
    assert clean_text("👩\u200d🚀") == "👩\u200d🚀"


@given(st.text() | st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010)))
def test_cleaning_is_idempotent_and_every_result_can_be_encoded(text):
    once = clean_text(text)
    assert clean_text(once) == once
    assert once.encode("utf-8").decode() == once and "\0" not in once


@given(st.binary(max_size=40))
def test_bytes_become_text_or_a_value_error(data):
    try:
        clean_text(decode_text(data)).encode()
    except ValueError as error:
        assert "neither" in str(error)


def test_json_as_people_write_it():
    assert parse_json(b'\xef\xbb\xbf{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json('{"a": 1}'.encode("utf-16")) == {"a": 1}
    assert parse_json("[" + "7" * 5000 + "]") == [float("inf")]
    assert parse_json("[-3, 1e999, NaN]")[:2] == [-3, float("inf")]


def test_items_of_a_list_one_by_one():
    text = ' [1, {"a": [2, "]"]}, "x,y" ]\n[3]\n'
    assert list(parse_list(text)) == [
        ("1", 1),
        ('{"a": [2, "]"]}', {"a": [2, "]"]}),
        ('"x,y"', "x,y"),
        ("3", 3),
    ]
    assert list(parse_list("[]")) == [] == list(parse_list(" [ ] []"))
    deep = "[" * 5000 + '"]"' + "]" * 5000
    (_, first), (nested, value), (_, last) = parse_list(f"[0, {deep}, 1]")
    assert (first, nested, last) == (0, deep, 1) and isinstance(value, ValueError)


@pytest.mark.parametrize(
    ("text", "read"),
    [("", 0), ("7", 0), ("{}", 0), ("[", 0), ("[1", 1), ("[1,", 1), ("[1 2]", 1), ("[1] x", 1), ("[1, [2", 1),
     ("[1, " + "[" * 5000, 1), ("[1][", 1)],
)  # fmt: skip
def test_a_list_that_breaks_off_gives_its_items_first(text, read):
    items = []
    with pytest.raises(ValueError, match="JSON"):
        for _, value in parse_list(text):
            items.append(value)
    assert items == [1] * read


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 50_000, "\0", b"\x81\x8d\x8f\x90"])
def test_what_is_no_json_is_a_value_error_in_one_line(text):
    with pytest.raises(ValueError) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 100


def test_a_message_is_one_printable_line_that_keeps_both_ends():
    told = one_line(f"/data/{'very/' * 200}long: no\nsuch \x1b[31mfile \ud83d jaime_mu\udcf1oz")
    assert len(told) == MESSAGE_CHARS and told.isprintable()
    assert told.startswith("/data/very/") and told.endswith(r"such \x1b[31mfile \ud83d jaime_mu\xf1oz")
    assert one_line("a\u202eb\u2028c") == r"a\u202eb c"
    assert one_line(KeyError()) == "KeyError" and one_line("") == ""


@given(st.text(max_size=2000), st.integers(30, 400))
def test_no_text_makes_a_message_longer_or_more_than_a_line(text, most):
    told = one_line(text, most)
    assert len(told) <= most and len(told.splitlines()) <= 1
    told.encode(sys.getdefaultencoding())


def test_arguments_of_the_command_line():
    assert text_argument("caf\udce9 noir ", "prompt") == "café noir"
    assert text_argument("half \ud83d", "prompt") == "half"
    assert typed_text(" \x07 ", "message") == ""
    for nothing in ("", "  \n", "\x07", "\ud83d", "\ufeff"):
        with pytest.raises(ValueError, match="^prompt: expected some text, got '") as caught:
            text_argument(nothing, "prompt")
        str(caught.value).encode()
    with pytest.raises(ValueError, match="^question: text that is neither"):
        text_argument("\udcc4\udce3\udcba\udcc3", "question")
