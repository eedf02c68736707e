"""Curation measured against planted faults: shares by hand."""

from pipelines.curation import planted_rejects, planted_selection


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
    measured = planted_selection(rows)
    assert measured["select/clean_lost_to_filters"] == 1 / 4
    assert measured["select/clean_kept"] == 2 / 4
    assert measured["select/wrong_caption_dropped"] == 1 / 2
    assert measured["select/kept_that_are_clean"] == 2 / 4
    assert "select/duplicate_dropped" not in measured
