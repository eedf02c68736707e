"""Source shards as they come: img2dataset / WebDataset tars, Parquet with image bytes, conversations, edits.

A reader yields a RawSample for what it can read and a Reject for what it cannot, and goes on. One sample is
in memory at a time. Nothing in an archive is ever written to disk, whatever its paths say.
"""

from ddt.data.readers.conversations import Part, read_conversations, split_conversations
from ddt.data.readers.edits import read_edits
from ddt.data.readers.entries import Span
from ddt.data.readers.parquet import read_parquet
from ddt.data.readers.sample import RawSample
from ddt.data.readers.sources import (
    CONVERSATIONS,
    EDITS,
    PAIRS,
    Source,
    SourceConfig,
    check_samples,
    copy_here,
    list_sources,
    read_source,
    to_record,
)
from ddt.data.readers.tar import read_tar

__all__ = [
    "CONVERSATIONS",
    "EDITS",
    "PAIRS",
    "Part",
    "RawSample",
    "Source",
    "SourceConfig",
    "Span",
    "check_samples",
    "copy_here",
    "list_sources",
    "read_conversations",
    "read_edits",
    "read_parquet",
    "read_source",
    "read_tar",
    "split_conversations",
    "to_record",
]
