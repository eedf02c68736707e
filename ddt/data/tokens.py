"""Token shards: captions or conversations beside image codes, as memory-mapped Arrow IPC files.

Uncompressed and read in place: 200 M images of 480 uint16 codes are 192 GB on disk and none in memory. A
shard's metadata say which tokenizer made its codes; readers refuse any other. Codes are stored V_1..V_T; the
order in which a language model reads them is applied by ddt.mllm.sequences alone. What has to be known of a
shard before it is read stands in its commit: thousands of them are checked without opening one.

T image tokens, K codebook size, n rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ddt.data.order import BlockShuffle, shuffled
from ddt.data.schemas import TURN
from ddt.records import QUESTION

MAX_CODEBOOK = 1 << 16  # codes are uint16
BLOCK_ROWS = 1 << 20  # of 480 codes and their texts some 2 GB: enough to mix, little enough to keep near
OPEN_SHARDS = 512


@dataclass(frozen=True)
class TokenMeta:
    """What made the codes of a shard."""

    tokenizer_digest: str
    num_tokens: int
    codebook_size: int
    token_order: str

    def to_schema(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_schema(cls, metadata: Mapping[bytes, bytes] | None, path: Path) -> TokenMeta:
        found = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
        try:
            return cls(
                found["tokenizer_digest"],
                int(found["num_tokens"]),
                int(found["codebook_size"]),
                found["token_order"],
            )
        except KeyError as error:
            raise ValueError(f"{path}: not a token shard, its metadata lack {error.args[0]}") from None


def pair_schema(num_tokens: int) -> pa.Schema:
    """Columns of a shard of image-text pairs: short native caption, long generated one, questions, codes."""
    codes = pa.list_(pa.uint16(), num_tokens)
    texts = [(name, pa.string()) for name in ("sample_id", "short", "long")]
    return pa.schema([*texts, ("questions", pa.list_(QUESTION)), ("codes", codes)])


def edit_schema(num_tokens: int) -> pa.Schema:
    """Columns of a shard of edits: the codes of the source, and those of the target."""
    codes = pa.list_(pa.uint16(), num_tokens)
    texts = [(name, pa.string()) for name in ("sample_id", "instruction")]
    return pa.schema([*texts, ("codes", codes), ("target_codes", codes)])


def chat_schema(num_tokens: int) -> pa.Schema:
    """Columns of a shard of conversations: `<image>` in a turn stands for the next image of the row."""
    codes = pa.list_(pa.list_(pa.uint16(), num_tokens))
    return pa.schema([("sample_id", pa.string()), ("turns", pa.list_(TURN)), ("codes", codes)])


SCHEMAS = {"pairs": pair_schema, "edits": edit_schema, "chat": chat_schema}


def write_shard(path: Path, columns: Mapping[str, Any], meta: TokenMeta, kind: str) -> int:
    """Writes one shard of `kind` "pairs", "edits" or "chat"; returns its rows.

    `columns` maps each name of the schema to a sequence; code columns are integer [n, T] arrays or sequences
    of T codes, a conversation has a sequence of images; pairs may come without `questions`. The same columns
    give the same bytes. Raises ValueError where codes are not T codes within [0, K).
    """
    if kind == "pairs":
        columns = {"questions": [[]] * len(columns["codes"]), **columns}
    schema = SCHEMAS[kind](meta.num_tokens)
    arrays = []
    for field in schema:
        values = columns[field.name]
        if pa.types.is_fixed_size_list(field.type):
            arrays.append(_code_array(values, meta, path))
        elif field.name == "codes":
            arrays.append(_image_lists(values, meta, path))
        else:
            arrays.append(pa.array(values, field.type))
    batch = pa.record_batch(arrays, schema=schema.with_metadata(meta.to_schema()))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return batch.num_rows


def _code_array(values: Any, meta: TokenMeta, path: Path) -> pa.Array:
    if meta.codebook_size > MAX_CODEBOOK:
        raise ValueError(f"{path}: codebook_size = {meta.codebook_size}: expected at most {MAX_CODEBOOK}")
    rows = [np.asarray(row, dtype=np.int64) for row in values]
    for row in rows:
        if row.shape != (meta.num_tokens,) or row.min() < 0 or row.max() >= meta.codebook_size:
            raise ValueError(
                f"{path}: expected {meta.num_tokens} codes below {meta.codebook_size} a row, got shape "
                f"{row.shape} with values from {row.min()} to {row.max()}"
            )
    codes_nT = np.stack(rows).astype(np.uint16) if rows else np.zeros((0, meta.num_tokens), dtype=np.uint16)
    kind = pa.list_(pa.uint16(), meta.num_tokens)
    return pa.FixedSizeListArray.from_arrays(pa.array(codes_nT.reshape(-1)), type=kind)


def _image_lists(rows: Sequence[Any], meta: TokenMeta, path: Path) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(images) for images in rows])]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), _code_array([codes for images in rows for codes in images], meta, path)
    )


class TokenShard:
    """One shard, memory-mapped. Rows are read in place; nothing is copied but what is asked for."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: not a readable token shard ({str(error).splitlines()[0]})") from None
        self.meta = TokenMeta.from_schema(table.schema.metadata, self.path)
        kinds = {"target_codes": "edits", "turns": "chat"}
        self.kind = next((kind for name, kind in kinds.items() if name in table.column_names), "pairs")
        _check_columns(table.schema, SCHEMAS[self.kind](self.meta.num_tokens), self.path)
        self._table = table.combine_chunks()
        self._codes: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self._table.num_rows

    def codes(self, name: str = "codes") -> np.ndarray:
        """uint16 [n, T] view of the file: a row for each image."""
        if name not in self._codes:
            self._codes[name] = self._code_view(name)
        return self._codes[name]

    def _code_view(self, name: str) -> np.ndarray:
        width = self.meta.num_tokens
        if not len(self):
            return np.zeros((0, width), dtype=np.uint16)
        chunk = self._table.column(name).chunk(0)
        if self.kind == "chat":
            chunk = chunk.values
        flat = chunk.values.to_numpy(zero_copy_only=True)
        return flat[chunk.offset * width : (chunk.offset + len(chunk)) * width].reshape(len(chunk), width)

    def highest_code(self) -> int:
        """The highest code of its images and targets, -1 where there is none.

        Reads all of them: Arrow IPC keeps no statistics of a column.
        """
        names = ("codes", "target_codes") if self.kind == "edits" else ("codes",)
        return max(int(codes.max()) if codes.size else -1 for codes in map(self.codes, names))

    def conversation(self, row: int) -> tuple[list[dict[str, str]], np.ndarray]:
        """The turns of one row, and the uint16 [n, T] codes of its images in the order of their marks."""
        first, last = self._image_offsets[row : row + 2]
        return self._table.column("turns")[row].as_py(), self.codes()[first:last]

    @cached_property
    def _image_offsets(self) -> np.ndarray:
        return self._table.column("codes").chunk(0).offsets.to_numpy()

    def text(self, name: str, row: int) -> str | None:
        return self._table.column(name)[row].as_py()

    def questions(self, row: int) -> list[dict[str, str]]:
        return self._table.column("questions")[row].as_py()

    def asked(self) -> np.ndarray:
        """The numbers of the rows with questions."""
        return np.flatnonzero(pc.list_value_length(self._table.column("questions")).to_numpy() > 0)

    def distinct(self, name: str) -> list[str]:
        return [value for value in self._table.column(name).unique().to_pylist() if value]


@dataclass(frozen=True)
class ShardFacts:
    """What a shard's commit says of it, by which it is found and checked before it is opened.

    key: its place in a store, or its path. asked: its rows with questions. highest_code: -1 of no image.
    """

    key: str
    rows: int
    asked: int
    highest_code: int
    meta: TokenMeta

    @classmethod
    def of(cls, path: Path | str, key: str | None = None) -> ShardFacts:
        """Of a shard's file, all codes of which are read."""
        shard = TokenShard(path)
        asked = len(shard.asked()) if shard.kind == "pairs" else 0
        return cls(key or str(path), len(shard), asked, shard.highest_code(), shard.meta)

    def to_stats(self) -> dict[str, Any]:
        """What a commit records beside key and rows."""
        return {"asked": self.asked, "highest_code": self.highest_code, **asdict(self.meta)}

    @classmethod
    def from_stats(cls, key: str, rows: int, stats: Mapping[str, Any]) -> ShardFacts:
        """The inverse of `to_stats`; ValueError where an earlier release has recorded less."""
        try:
            meta = TokenMeta(**{field.name: stats[field.name] for field in fields(TokenMeta)})
            return cls(key, rows, stats["asked"], stats["highest_code"], meta)
        except KeyError as error:
            raise ValueError(f"{key}: its commit lacks {error.args[0]}; run tokenize_images again") from None


class TokenDataset:
    """Shards of one kind and one tokenizer as a single indexed sequence; each is opened when it is read.

    The order of `shards` is the order of rows; give it sorted, as a manifest is. `fetch` turns a shard's key
    into a local path. Raises ValueError where a shard was made by another tokenizer than `tokenizer_digest`
    or for another `codebook_size`, shards disagree, a code is not in the codebook, or there is no row; and
    later, where a shard is not what its facts say.
    """

    def __init__(
        self,
        shards: Sequence[ShardFacts],
        fetch: Callable[[str], Path] = Path,
        tokenizer_digest: str | None = None,
        codebook_size: int | None = None,
    ) -> None:
        self._facts, self._fetch = shards, fetch
        if not sum(shard.rows for shard in shards):
            raise ValueError(f"no rows in {len(shards)} token shards")
        self.meta = shards[0].meta
        for shard in shards:
            _check(shard, self.meta, tokenizer_digest, codebook_size)
        self._starts = np.concatenate([[0], np.cumsum([shard.rows for shard in shards])])
        self._asked = np.concatenate([[0], np.cumsum([shard.asked for shard in shards])])
        self._open: OrderedDict[int, TokenShard] = OrderedDict()
        self._orders: dict[tuple[int, str], BlockShuffle] = {}

    @classmethod
    def of_files(
        cls,
        paths: Sequence[Path | str],
        tokenizer_digest: str | None = None,
        codebook_size: int | None = None,
    ) -> TokenDataset:
        """Of files whose commits are not at hand: all of their codes are read."""
        return cls([ShardFacts.of(path) for path in paths], Path, tokenizer_digest, codebook_size)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def num_asked(self) -> int:
        """How many pairs have questions."""
        return int(self._asked[-1])

    def shuffled(self, seed: int, stream: str, places: np.ndarray) -> np.ndarray:
        """The row at each place of an endless pass, reshuffled every epoch: over all rows, and of more than
        BLOCK_ROWS of them over blocks of shards, which are then all that has to be at hand.
        """
        if len(self) <= BLOCK_ROWS:
            return shuffled(seed, stream, places, len(self))
        if (seed, stream) not in self._orders:
            rows = [shard.rows for shard in self._facts]
            self._orders[seed, stream] = BlockShuffle(rows, BLOCK_ROWS, seed, stream)
        return self._orders[seed, stream](places)

    def shard(self, number: int) -> TokenShard:
        """One of the shards; the last few stay open."""
        if number not in self._open:
            facts = self._facts[number]
            shard = TokenShard(self._fetch(facts.key))
            if (len(shard), shard.meta) != (facts.rows, facts.meta):
                told = f"{len(shard)} rows, {shard.meta}"
                raise ValueError(f"{facts.key}: has {told}; its commit says {facts.rows}, {facts.meta}")
            self._open[number] = shard
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def _locate(self, index: int) -> tuple[TokenShard, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.shard(number), int(index - self._starts[number])

    def text(self, name: str, index: int) -> str | None:
        shard, row = self._locate(index)
        return shard.text(name, row)

    def codes(self, index: int, name: str = "codes") -> np.ndarray:
        """int64 [T]: V_1..V_T of one row."""
        shard, row = self._locate(index)
        return shard.codes(name)[row].astype(np.int64)

    def conversation(self, index: int) -> tuple[list[dict[str, str]], np.ndarray]:
        """The turns of one conversation and the int64 [n, T] codes of its images."""
        shard, row = self._locate(index)
        turns, codes_nT = shard.conversation(row)
        return turns, codes_nT.astype(np.int64)

    def distinct(self, name: str) -> list[str]:
        """The different values of a text column, sorted."""
        every = map(self.shard, range(len(self._facts)))
        return sorted({value for shard in every for value in shard.distinct(name)})

    def questions(self, index: int) -> list[dict[str, str]]:
        """What is asked about the image of a pair, each with its `answer`."""
        shard, row = self._locate(index)
        return shard.questions(row)

    def asked(self, places: np.ndarray) -> np.ndarray:
        """The numbers of pairs with questions: of the first of them, the second, and so on, as `places` has
        it from 0 to `num_asked` - 1.
        """
        numbers = np.searchsorted(self._asked, places, side="right") - 1
        found = np.empty_like(places)
        for number in np.unique(numbers):
            here = numbers == number
            rows = self.shard(int(number)).asked()
            found[here] = self._starts[number] + rows[places[here] - self._asked[number]]
        return found


def _check_columns(found: pa.Schema, expected: pa.Schema, path: Path) -> None:
    for name, kind in zip(expected.names, expected.types, strict=True):
        if name not in found.names:
            raise ValueError(f"{path}: not a token shard, it has no column {name}")
        if found.field(name).type != kind:
            raise ValueError(f"{path}: column {name} is of type {found.field(name).type}, expected {kind}")


def _check(
    shard: ShardFacts, meta: TokenMeta, tokenizer_digest: str | None, codebook_size: int | None
) -> None:
    if tokenizer_digest is not None and shard.meta.tokenizer_digest != tokenizer_digest:
        raise ValueError(
            f"{shard.key}: its codes were made by tokenizer {shard.meta.tokenizer_digest[:16]}, "
            f"but the tokenizer given is {tokenizer_digest[:16]}; run tokenize_images with that tokenizer"
        )
    size = shard.meta.codebook_size
    if codebook_size is not None and size != codebook_size:
        raise ValueError(f"{shard.key}: its codebook_size is {size}, the tokenizer's is {codebook_size}")
    if shard.meta != meta:
        raise ValueError(f"{shard.key}: {shard.meta} differs from the first shard's {meta}")
    if shard.highest_code >= size:
        raise ValueError(f"{shard.key}: holds code {shard.highest_code}, expected codes from 0 to {size - 1}")
