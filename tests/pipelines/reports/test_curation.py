"""Curation measured against planted faults: shares by hand."""

from pipelines.reports.curation import planted_rejects, planted_selection


def test_rejects_count_only_for_the_right_reason() -> None:
    rejects = [
        {"planted": "corrupt", "reason": "corrupt_image"},
        {"planted": "corrupt", "reason": "too_small"},
        {"planted": "tiny", "reason": "too_small"},
        {"planted": "clean", "reason": "corrupt_image"},
    ]
    recorded = ["clean", "corrupt", "corrupt", None]  # two corrupt images slipped through
    assert planted_rejects(recorded, rejects) == {
        "ingest/planted_corrupt_rejected": 1 / 4,
        "ingest/planted_tiny_rejected": 1.0,
        "ingest/false_rejects": 2.0,
    }


def test_selection_tells_filters_from_the_cut_at_k() -> None:
    rows = [
        ("clean", "kept"),
        ("clean", "kept"),
        ("clean", "below_top_k"),
        ("clean", "near_duplicate"),
        ("wrong_caption", "low_native_score"),
        ("wrong_caption", "kept"),
        (None, "kept"),
    ]
    planted, verdicts = zip(*rows, strict=True)
    measured = planted_selection(planted, verdicts, [0, 1, 2, 0, 4, 5, 6])
    assert measured["select/clean_lost_to_filters"] == 1 / 4
    assert measured["select/clean_kept"] == 2 / 4
    assert measured["select/wrong_caption_dropped"] == 1 / 2
    assert measured["select/kept_that_are_clean"] == 2 / 4
    assert "select/duplicate_dropped" not in measured


def test_a_copy_kept_in_its_original_s_stead_was_caught_and_no_clean_pair_is_lost() -> None:
    rows = [
        ("clean", "duplicate", 1),
        ("duplicate", "kept", 1),
        ("clean", "near_duplicate", 3),
        ("near_duplicate", "below_top_k", 3),
        ("near_duplicate", "kept", 4),  # its original was dropped by its score: nothing it stands for
        ("clean", "low_native_score", 5),
        ("clean", "near_duplicate", 1),  # another picture that looks like row 1, which stands for row 0
        ("clean", "kept", 7),
    ]
    measured = planted_selection(*zip(*rows, strict=True))
    assert measured["select/duplicate_dropped"] == 1
    assert measured["select/near_duplicate_dropped"] == 1 / 2
    assert measured["select/clean_lost_to_filters"] == 2 / 5
    assert measured["select/clean_kept"] == 2 / 5
    assert measured["select/kept_that_are_clean"] == 2 / 3


def test_a_clean_pair_is_lost_to_any_winner_but_a_copy() -> None:
    for winner in ("clean", "wrong_caption", None):
        measured = planted_selection(["clean", winner], ["near_duplicate", "kept"], [1, 1])
        assert measured["select/clean_lost_to_filters"] == (1 / 2 if winner == "clean" else 1)
