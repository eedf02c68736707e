"""The presets' parameter counts, built on the meta device, and the table of them in docs/tokenizer.md."""

from pathlib import Path

import pytest

from ddt.tokenizer.sizes import PRESETS, preset_sizes, table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "tokenizer.md"


@pytest.fixture(scope="module")
def sizes():
    return {name: preset_sizes(name) for name in PRESETS}


def test_the_documented_table_is_what_the_command_prints(sizes):
    assert table(sizes) in DOCS.read_text()


def test_paper_and_selftok_have_the_expected_counts(sizes):
    paper, selftok = sizes["paper"], sizes["selftok"]
    assert paper["image tokens: encoder, decoder"] == "1,024, 256"
    assert paper["tokens T, codes"] == "480 of 65,536 × 16"
    assert (paper["encoder blocks"], paper["decoder blocks"]) == ("20 × 256", "24 × 1536")
    assert paper["parameters"] == "2,047,683,408"
    # Patch 2 instead of 1 embeds 4 times as many numbers; 32 more queries.
    more = (64 - 16) * 256 + 32 * 256
    assert selftok["parameters"] == f"{2_047_683_408 + more:,}"
