"""Documents of different lengths packed into rows of one length, with no attention between them.

R rows, L tokens in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddt.mllm.sequences import Document


class PackedBatch(NamedTuple):
    """Rows of packed documents; a slice of rows is a valid smaller batch.

    `document_RL` numbers the documents of a row from 1 (0: padding), `position_RL` restarts with each, and
    `learned_RL` marks the tokens whose prediction is in the loss. `scale_R` holds, in every row, the global
    batch's rows / learned tokens: a row's summed loss times it, averaged over rows, micro-batches and ranks,
    is the mean over all learned tokens, however they fell into rows.
    """

    ids_RL: Tensor
    document_RL: Tensor
    position_RL: Tensor
    learned_RL: Tensor
    scale_R: Tensor


def assign_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """First-fit decreasing: document numbers of each row, a function of the lengths alone.

    Raises ValueError where a document is longer than a row.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if order and lengths[order[0]] > row_length:
        raise ValueError(f"a sequence of {lengths[order[0]]} tokens does not fit row_length = {row_length}")
    rows: list[list[int]] = []
    free: list[int] = []
    for i in order:
        row = next((r for r, room in enumerate(free) if room >= lengths[i]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            free.append(row_length)
        rows[row].append(i)
        free[row] -= lengths[i]
    return rows


def pack(documents: Sequence[Document], row_length: int, pad: int, multiple: int = 1) -> PackedBatch:
    """`documents` in the rows that first-fit decreasing needs, made a `multiple` with empty rows."""
    rows = assign_rows([len(document) for document in documents], row_length)
    num_rows = max(1, -(-len(rows) // multiple)) * multiple
    ids = np.full((num_rows, row_length), pad, dtype=np.int64)
    number = np.zeros((num_rows, row_length), dtype=np.int64)
    position = np.zeros((num_rows, row_length), dtype=np.int64)
    learned = np.zeros((num_rows, row_length), dtype=bool)
    for row, members in enumerate(rows):
        start = 0
        for count, i in enumerate(members, start=1):
            document = documents[i]
            span = slice(start, start + len(document))
            ids[row, span], learned[row, span] = document.ids, document.learned
            number[row, span], position[row, span] = count, np.arange(len(document))
            start += len(document)
    scale = np.full(num_rows, num_rows / max(1, int(learned.sum())), dtype=np.float32)
    return PackedBatch(*map(torch.from_numpy, (ids, number, position, learned, scale)))


def slice_rows(batch: PackedBatch, rank: int, world: int) -> PackedBatch:
    """The rows of one rank out of `world`: every world-th row, so that long and short rows spread evenly."""
    return PackedBatch(*(tensor[rank::world].contiguous() for tensor in batch))


def allowed_attention(document_RL: Tensor) -> Tensor:
    """bool [R, L, L]: query i may see key j, where j is not after i and in the same document.

    Padding sees itself, so that no row of the softmax is empty.
    """
    length = document_RL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=document_RL.device).tril()
    return causal_LL & (document_RL[:, :, None] == document_RL[:, None, :])


def additive_mask(document_RL: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, 1, L, L]: 0 where attention is allowed, the most negative number elsewhere."""
    hidden_RLL = ~allowed_attention(document_RL)
    mask = torch.zeros(hidden_RLL.shape, dtype=dtype, device=document_RL.device)
    return mask.masked_fill_(hidden_RLL, torch.finfo(dtype).min)[:, None]
