"""Token shards: captions or conversations beside image codes, as memory-mapped Arrow IPC files.

Uncompressed and read in place: 200 M images of 480 uint16 codes are 192 GB on disk and none in memory. A
shard's metadata say which tokenizer made its codes; readers refuse any other. Codes are stored V_1..V_T; the
order in which a language model reads them is applied by ddt.mllm.sequences alone.

T image tokens, K codebook size, n rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ddt.data.schemas import TURN
from ddt.records import QUESTION

MAX_CODEBOOK = 1 << 16  # codes are uint16


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


class TokenDataset:
    """Shards of one kind and one tokenizer as a single indexed sequence.

    The order of `paths` is the order of rows; give it sorted, as a manifest is. Raises ValueError where a
    shard was made by another tokenizer than `tokenizer_digest` or for another `codebook_size`, shards
    disagree, a code is not in the codebook, or there is no row.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        tokenizer_digest: str | None = None,
        codebook_size: int | None = None,
    ) -> None:
        self.shards = [TokenShard(path) for path in paths]
        if not sum(map(len, self.shards)):
            raise ValueError(f"no rows in {len(self.shards)} token shards")
        self.meta = self.shards[0].meta
        for shard in self.shards:
            _check(shard, self.meta, tokenizer_digest, codebook_size)
        self._starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _locate(self, index: int) -> tuple[TokenShard, int]:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.shards[shard], int(index - self._starts[shard])

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
        return sorted({value for shard in self.shards for value in shard.distinct(name)})

    def questions(self, index: int) -> list[dict[str, str]]:
        """What is asked about the image of a pair, each with its `answer`."""
        shard, row = self._locate(index)
        return shard.questions(row)

    @cached_property
    def asked(self) -> np.ndarray:
        """The numbers of the pairs with questions."""
        starts = self._starts[:-1].tolist()
        return np.concatenate([start + s.asked() for start, s in zip(starts, self.shards, strict=True)])


def _check_columns(found: pa.Schema, expected: pa.Schema, path: Path) -> None:
    for name, kind in zip(expected.names, expected.types, strict=True):
        if name not in found.names:
            raise ValueError(f"{path}: not a token shard, it has no column {name}")
        if found.field(name).type != kind:
            raise ValueError(f"{path}: column {name} is of type {found.field(name).type}, expected {kind}")


def _check(
    shard: TokenShard, meta: TokenMeta, tokenizer_digest: str | None, codebook_size: int | None
) -> None:
    if tokenizer_digest is not None and shard.meta.tokenizer_digest != tokenizer_digest:
        raise ValueError(
            f"{shard.path}: its codes were made by tokenizer {shard.meta.tokenizer_digest[:16]}, "
            f"but the tokenizer given is {tokenizer_digest[:16]}; run tokenize_images with that tokenizer"
        )
    size = shard.meta.codebook_size
    if codebook_size is not None and size != codebook_size:
        raise ValueError(f"{shard.path}: its codebook_size is {size}, the tokenizer's is {codebook_size}")
    if shard.meta != meta:
        raise ValueError(f"{shard.path}: {shard.meta} differs from the first shard's {meta}")
    highest = shard.highest_code()
    if highest >= size:
        raise ValueError(f"{shard.path}: holds code {highest}, expected codes from 0 to {size - 1}")
