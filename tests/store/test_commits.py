"""Commits on both stores: workers that race on units, in threads, each with its own connection."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ddt.manifest import Manifest, commits, unit_id, verify, write_unit
from ddt.store import open_store

STAGE, PRINT = "tokenize_images", "a" * 64


@pytest.mark.parametrize("same", [True, False])
def test_racing_workers_leave_one_result(store, tmp_path, same):
    stores = [store, open_store(store.root_uri, tmp_path / "other-cache")]

    def work(task):
        worker, index = task
        mine = stores[worker % 2]
        path = tmp_path / f"{worker}-{index}.arrow"
        path.write_text(f"unit {index}" if same else f"unit {index} by {worker}")
        return write_unit(mine, STAGE, PRINT, unit_id(str(index), PRINT), path, rows=index, rejects_path=path)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, [(worker, index) for index in range(3) for worker in range(4)]))
    found = commits(store, STAGE, PRINT)
    assert len(found) == 3 and all(found[answer.unit] == answer for answer in answers)
    assert len(store.list("shards/")) == 6, "three shards and their rejects; losers took theirs away"
    assert verify(store, Manifest(STAGE, PRINT, {}, tuple(found.values()))) == []
