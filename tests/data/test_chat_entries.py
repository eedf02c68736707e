"""Conversations in files as they lie about: damaged lines, breaks, encodings, data: URIs, links."""

import base64
import json
import os

import pytest

from ddt.data.readers import read_conversations, split_conversations
from ddt.data.readers.entries import read_entries
from ddt.data.schemas import CONVERSATION_SCHEMA
from ddt.records import Reject, write_shard
from tests.data.test_instruction_readers import LIMITS, png, said


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "red.png").write_bytes(png("red"))
    return tmp_path


def entry(name, answer="Red.", image="red.png", **more):
    return {"id": name, "image": image, "conversations": said("What colour?", answer), **more}


def read(folder, name="chat.json", parts=3):
    """(last answers, rejects), read in parts as ingest does and written into a shard."""
    rows, bad = [], []
    for part in split_conversations(folder / name, folder, parts):
        for item in read_conversations(folder / name, folder, **LIMITS, part=part):
            (bad if isinstance(item, Reject) else rows).append(item)
    write_shard(folder / "shard", rows, CONVERSATION_SCHEMA)
    return [row["turns"][-1]["text"] for row in rows], bad


def test_turns_are_cleaned(folder):
    answers = ["half \ud83d an emoji", "a\0 b\x07", "\ufeffmark", "two\u2028lines", "\ud83d\ude00"]
    (folder / "chat.json").write_text(json.dumps([entry(str(i), text) for i, text in enumerate(answers)]))
    assert read(folder) == (["half  an emoji", "a b", "mark", "two\nlines", "😀"], [])
    (folder / "chat.json").write_text(json.dumps([entry("a", "\ud83d"), entry("b")]))
    answers, (reject,) = read(folder)
    assert answers == ["Red."] and (reject.key, reject.detail) == ("entry 0 (a)", "turn 1 is empty")


def test_a_picture_within_the_json(folder):
    plain = base64.b64encode(png("blue")).decode()
    forms = [f"data:image/png;base64,{plain}", f"data:;base64,{plain.rstrip('=')}",
             f"DATA:image/png;name=x;base64,{plain[:40]}\n{plain[40:]}", {"bytes": None, "path": "red.png"},
             [{"path": "red.png"}]]  # fmt: skip
    (folder / "chat.json").write_text(json.dumps([entry(str(i), image=form) for i, form in enumerate(forms)]))
    assert read(folder) == (["Red."] * 5, [])
    row = next(read_conversations(folder / "chat.json", folder, **LIMITS))
    assert row["images"] == [png("blue")]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("data:image/png;base64,@@@@", "bad_record"),
        ("data:image/png;base64,AAAA", "corrupt_image"),
        ("data:text/plain,hello", "corrupt_image"),
        ("data:image/png;base64,", "missing_image"),
        ("https://example.invalid/a.jpg", "missing_image"),
        ("file:///etc/passwd", "missing_image"),
        ("half\ud83d.jpg", "bad_record"),
        ("nul\0.jpg", "bad_record"),
        ("x" * 100_000, "missing_image"),
        ("red.png/deeper", "missing_image"),
        ("loop", "missing_image"),
        ("pipe", "missing_image"),
        (".", "bad_record"),
        ("", "bad_record"),
        (7, "bad_record"),
        ({"url": "red.png", "detail": "low"}, "bad_record"),
        (["red.png", 7], "bad_record"),
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode().replace("\0", "0"),
)  # fmt: skip
def test_an_image_that_is_none_is_that_entrys_reject(folder, image, reason):
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    marked = {"conversations": said("<image>", "Red.")} if image == "" else {}
    (folder / "chat.json").write_text(json.dumps([entry("a"), entry("b", image=image, **marked), entry("c")]))
    answers, (reject,) = read(folder)
    assert len(answers) == 2 and (reject.reason, reject.source, reject.key) == (
        reason,
        "chat.json",
        "entry 1 (b)",
    )
    assert len(reject.detail) <= 300 and reject.detail.isprintable()


def test_names_must_not_lead_out_and_links_may(tmp_path):
    """As in Hugging Face's cache, where every file of a snapshot is a link to a blob beside it."""
    folder = tmp_path / "snapshot"
    (tmp_path / "blobs").mkdir()
    folder.mkdir()
    (tmp_path / "blobs/red.png").write_bytes(png("red"))
    (folder / "red.png").symlink_to("../blobs/red.png")
    (folder / "linked").symlink_to(tmp_path / "blobs")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(png("red"))
    good = ["red.png", "linked/red.png", "./linked/../red.png", str(folder / "red.png"), "caf\udce9.png"]
    bad = ["../blobs/red.png", "/etc/passwd", "a/../../blobs/red.png", f"{folder}x/red.png", ".."]
    (folder / "chat.json").write_text(json.dumps([entry(name, image=name) for name in (*good, *bad)]))
    answers, rejects = read(folder)
    assert len(answers) == len(good) and len(rejects) == len(bad)
    assert all("lies outside the folder" in reject.detail for reject in rejects)


def test_a_damaged_line_is_one_reject(folder):
    lines = [
        json.dumps(entry("a")),
        json.dumps(entry("b"))[:-20],
        "",
        "[" * 100_000,
        json.dumps(entry("c")),
        "7",
    ]
    data = "\r\n".join(lines).encode() + b'\n{"id": "\x81\x8d\x8f\x90"}'
    (folder / "chat.jsonl").write_bytes(data)
    answers, bad = read(folder, "chat.jsonl")
    assert answers == ["Red."] * 2
    assert [reject.key for reject in bad] == ["line 2", "line 4", "line 6", "line 7"]
    assert {reject.reason for reject in bad} == {"bad_record"}
    assert "not JSON at column" in bad[0].detail and "nested too deep" in bad[1].detail


def test_an_item_that_is_nested_too_deep_is_one_reject(folder):
    deep = '{"a": ' * 20_000 + '"]}"' + "}" * 20_000
    items = [json.dumps(entry("a")), deep, json.dumps(entry("b"))]
    (folder / "chat.json").write_text(f"[{', '.join(items)}]")
    answers, (reject,) = read(folder)
    assert len(answers) == 2 and (reject.key, reject.detail) == ("entry 1", "JSON that is nested too deep")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_list_that_breaks_off_is_read_so_far_and_the_rest_counted(folder, share):
    text = json.dumps([entry(f"{i:03d}") for i in range(100)])
    (folder / "chat.json").write_text(text[: int(share * len(text))])
    answers, (reject,) = read(folder, parts=1000)
    assert len(answers) == int(share * 100) and reject.reason == "corrupt_archive"
    (folder / "chat.json").write_text(text.replace('"id": "030"', '"id" "030"'))
    answers, (reject,) = read(folder, parts=1000)
    assert len(answers) == 30 and 65 <= reject.lost <= 75 and reject.key == "after entry 29"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl", "CHAT.JSONL"])
def test_encodings_of_the_file(folder, name, encoding):
    entries = [entry("a", "Größe"), entry("b", "naïve café")]
    dumped = [json.dumps(one, ensure_ascii=False) for one in entries]
    text = "\n".join(dumped) if name.lower().endswith("l") else f"[{','.join(dumped)}]"
    (folder / name).write_bytes(text.encode(encoding))
    assert read(folder, name) == (["Größe", "naïve café"], [])


def test_json_lines_under_the_name_of_a_list(folder):
    (folder / "chat.json").write_text("\n".join(json.dumps(entry(str(i))) for i in range(5)))
    assert read(folder) == (["Red."] * 5, [])


def test_values_of_any_kind(folder):
    """Numbers, NaN, keys given twice, names of hundreds of digits: none ends the reading."""
    odd = ['{"id": NaN}', "null", "[]", '"text"', '{"id": ' + "9" * 5000 + "}", '{"conversations": "text"}',
           '{"conversations": [7]}', '{"conversations": [{"from": [], "value": "x"}]}',
           '{"conversations": null}',
           '{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}',
           '{"conversations": [{"from": "human", "value": NaN}]}']  # fmt: skip
    twice = '{"conversations": [], ' + json.dumps(entry("z"))[1:]
    (folder / "chat.json").write_text(f"[{','.join([*odd, twice])}]")
    answers, bad = read(folder)
    assert answers == ["Red."] and [reject.key.split()[1] for reject in bad] == [
        str(i) for i in range(len(odd))
    ]
    assert {reject.reason for reject in bad} == {"bad_record"}
    assert bad[9].detail == "a turn of type list, expected a text"


def test_nothing_is_looked_into_without_end(folder):
    """Values that JSON can just be read to, and a call for each level could not."""
    deep = 400
    image = '{"path": ' * deep + "7" + "}" * deep
    texts = '{"id": ' + "[" * deep + "]" * deep + f', "image": {image}, "conversations": {image}}}'
    (folder / "chat.json").write_text(f"[{texts}, {json.dumps(entry('z'))}]")
    answers, (reject,) = read(folder)
    assert answers == ["Red."] and reject.reason == "bad_record" and reject.key == "entry 0"


def test_names_as_other_systems_write_them(folder):
    (folder / "sub").mkdir()
    for name in ("sub/a.png", "caf\u00e9.png", "nai\u0308ve.png"):
        (folder / name).write_bytes(png("red"))
    names = ["sub\\a.png", "cafe\u0301.png", "na\u00efve.png", "..\\a.png"]
    (folder / "chat.json").write_text(json.dumps([entry(name, image=name) for name in names]))
    answers, (reject,) = read(folder)
    assert len(answers) == 3 and reject.key == r"entry 3 (..\a.png)"
    before = split_conversations(folder / "chat.json", folder, 9)
    os.utime(folder / "sub/a.png", ns=(0, 0))
    assert split_conversations(folder / "chat.json", folder, 9) != before


def test_lists_one_after_the_other_and_roles_of_any_name(folder):
    turns = [
        {"role": "System", "content": "x"},
        {"role": "USER", "content": "q"},
        {"role": "Bot", "content": "a"},
    ]
    tool = {"messages": [{"role": "tool", "content": "x"}]}
    text = json.dumps([entry("a"), {"messages": turns}]) + "\n" + json.dumps([entry("b"), tool])
    (folder / "chat.json").write_text(text)
    answers, (reject,) = read(folder)
    assert answers == ["Red.", "a", "Red."] and "a turn by 'tool'; known: system, human" in reject.detail


def test_pictures_under_the_name_of_several(folder):
    entries = [{"messages": [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "a"}],
                "images": ["red.png"]}]  # fmt: skip
    (folder / "chat.json").write_text(json.dumps(entries))
    assert read(folder) == (["a"], [])


LINES = [json.dumps(entry(str(i), f"Röd {i} \U0001f600"), ensure_ascii=i % 2 == 0) for i in range(9)]
FILES = {
    "list.json": f"\n[{', '.join(LINES)}]",
    "marked.json": "\ufeff[" + ",\n".join(LINES) + "]",
    "two.json": f"[{', '.join(LINES[:4])}]\n[{','.join(LINES[4:])}]",
    "equal.json": f"[{', '.join(LINES[:1] * 9)}]",
    "nothing.json": '[1, 1, 11, "1", [1], 1, 1]',
    "broken.json": f"[{', '.join(LINES)}, {{",
    "lines.jsonl": "\n\n".join(LINES) + "\n\n{\n",
    "objects.json": "\n".join(LINES),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("entries", [1, 2, 5, 100])
def test_a_part_is_read_by_its_bytes_as_within_the_whole(folder, name, entries):
    (folder / name).write_bytes(FILES[name].encode())
    whole = list(map(repr, read_entries(folder / name)))
    parts = split_conversations(folder / name, folder, entries)
    for part in parts:
        if part.span is not None:
            found = list(map(repr, read_entries(folder / name, part.span)))
            assert found == whole[part.start : part.stop]
    without = [part for part in parts if part.span is None]
    assert len(without) == (name == "broken.json"), "what is behind a break is not known by its bytes"
    (answers, bad), (wanted, wanted_bad) = read(folder, name, entries), read(folder, name, 1000)
    assert answers == wanted and [(r.key, r.lost, repr(r)) for r in bad] == [
        (r.key, r.lost, repr(r)) for r in wanted_bad
    ]


def test_nothing_before_a_part_is_read(folder):
    (folder / "chat.json").write_text(FILES["list.json"])
    last = split_conversations(folder / "chat.json", folder, 3)[-1]
    data = (folder / "chat.json").read_bytes()
    (folder / "chat.json").write_bytes(b"x" * last.span.begin + data[last.span.begin : last.span.end] + b"x")
    rows = list(read_conversations(folder / "chat.json", folder, **LIMITS, part=last))
    assert [row["turns"][-1]["text"] for row in rows] == [f"Röd {i} \U0001f600" for i in (6, 7, 8)]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_in_other_encodings_all_of_the_file_is_read(folder, encoding):
    for name in ("chat.json", "chat.jsonl"):
        lines = [json.dumps(entry(str(i), "Röd"), ensure_ascii=False) for i in range(4)]
        text = "\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]"
        (folder / name).write_bytes(text.encode(encoding))
        spans = [part.span for part in split_conversations(folder / name, folder, 2)]
        by_line = (name, encoding) == ("chat.jsonl", "cp1252")  # each of its lines is decoded by itself
        assert all((span is not None) == by_line for span in spans)
        assert read(folder, name, 2) == (["Röd"] * 4, [])
