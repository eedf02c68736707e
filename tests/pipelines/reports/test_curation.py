"""Curation measured against planted faults: shares by hand."""

from collections import Counter

import numpy as np

from ddt.data.verdicts import BELOW, ROW, VERDICTS, Tally, kind_codes
from ddt.records import Reject
from pipelines.reports.curation import planted_rejects, planted_selection, planted_stats


def measured(*rows: tuple[str | None, str, bool]) -> dict[str, float]:
    """Of rows (planted, verdict, whether it stands for a clean row), counted in two parts."""
    table = np.zeros(len(rows), ROW)
    table["planted"] = kind_codes([name for name, _, _ in rows])
    table["verdict"] = [VERDICTS.index(verdict) for _, verdict, _ in rows]
    table["stands"] = [stands for _, _, stands in rows]
    counts = Tally.of(table[:3]).to_array() + Tally.of(table[3:]).to_array()
    return planted_selection(Tally.from_array(counts))


def test_counts_of_parts_add_up() -> None:
    rows = np.zeros(5, ROW)
    rows["verdict"], rows["native"] = [0, 0, 1, BELOW, 0], [0.1, 0.101, 0.2, -1, 1]
    tally = Tally.from_array(Tally.of(rows[:2]).to_array() + Tally.of(rows[2:]).to_array())
    assert tally.by_verdict() == {"below_top_k": 1, "duplicate": 1, "kept": 3}
    assert np.flatnonzero(tally.kept_scores).tolist() == [220, 399]
    assert np.flatnonzero(tally.dropped_scores).tolist() == [0, 240]


def test_rejects_count_only_for_the_right_reason() -> None:
    rejects = [
        Reject("corrupt_image", planted="corrupt"),
        Reject("too_small", planted="corrupt"),
        Reject("too_small", planted="tiny"),
        Reject("corrupt_image", planted="clean"),
    ]
    recorded = Counter({"clean": 1, "corrupt": 2})  # two corrupt images slipped through
    one, other = planted_stats(recorded, rejects[:2]), planted_stats({}, rejects[2:])
    assert planted_rejects([one, {}, other]) == {
        "ingest/planted_corrupt_rejected": 1 / 4,
        "ingest/planted_tiny_rejected": 1.0,
        "ingest/false_rejects": 2.0,
    }


def test_selection_tells_filters_from_the_cut_at_k() -> None:
    found = measured(
        ("clean", "kept", False),
        ("clean", "kept", True),
        ("clean", "below_top_k", False),
        ("clean", "near_duplicate", False),
        ("wrong_caption", "low_native_score", False),
        ("wrong_caption", "kept", False),
        (None, "kept", False),
    )
    assert found["select/clean_lost_to_filters"] == 1 / 4
    assert found["select/clean_kept"] == 2 / 4
    assert found["select/wrong_caption_dropped"] == 1 / 2
    assert found["select/kept_that_are_clean"] == 2 / 4
    assert "select/duplicate_dropped" not in found


def test_a_copy_kept_in_its_original_s_stead_was_caught_and_no_clean_pair_is_lost() -> None:
    found = measured(
        ("clean", "duplicate", False),
        ("duplicate", "kept", True),  # for the first row, and for another picture that looks like it
        ("clean", "near_duplicate", False),
        ("near_duplicate", "below_top_k", True),
        ("near_duplicate", "kept", False),  # its original was dropped by its score: nothing it stands for
        ("clean", "low_native_score", False),
        ("clean", "near_duplicate", False),
        ("clean", "kept", False),
    )
    assert found["select/duplicate_dropped"] == 1
    assert found["select/near_duplicate_dropped"] == 1 / 2
    assert found["select/clean_lost_to_filters"] == 2 / 5
    assert found["select/clean_kept"] == 2 / 5
    assert found["select/kept_that_are_clean"] == 2 / 3


def test_a_clean_pair_is_lost_to_any_winner_but_a_copy() -> None:
    for winner in ("clean", "wrong_caption", None):
        found = measured(("clean", "near_duplicate", False), (winner, "kept", True))
        assert found["select/clean_lost_to_filters"] == (1 / 2 if winner == "clean" else 1)


def test_nothing_is_told_where_nothing_was_planted() -> None:
    assert measured((None, "kept", False), ("a stranger's word", "duplicate", False)) == {}
