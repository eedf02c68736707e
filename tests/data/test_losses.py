"""The rate of lost samples, by kind and by shard: hand-counted cases."""

import pytest

from ddt.data.losses import SHARD_SAMPLES, Tally, told, too_many_lost


def shard(name, kept, kind="pairs", **lost):
    return Tally(f"id of {name}", kind, name, kept, lost)


def what(*shards, rate=0.2):
    found = too_many_lost(shards, rate)
    return None if found is None else (found[0], [s.place for s in found[1]])


def test_a_kind_is_not_hidden_behind_a_larger_one():
    pairs = [shard(str(i), 1000) for i in range(10)]
    chats = shard("c.json", 30, "conversations", bad_record=10)
    assert what(*pairs, chats) == ("conversations", ["c.json"])
    assert what(*pairs, shard("c.json", 30, "conversations", bad_record=7)) is None


def test_a_shard_is_not_hidden_behind_others_of_its_kind():
    whole = [shard(str(i), 1000) for i in range(10)]
    assert what(*whole, shard("bad.tar", 20, bad_record=40)) == ("pairs, bad.tar", ["bad.tar"])
    assert what(*whole, shard("ok.tar", 80, bad_record=20)) is None, "the rate itself is allowed"
    assert what(*whole, shard("ok.tar", 79, bad_record=20)) == ("pairs, ok.tar", ["ok.tar"])


def test_a_small_shard_counts_with_its_kind_alone():
    whole = shard("large", 1000)
    assert what(whole, shard("small", 1, too_small=SHARD_SAMPLES - 2)) is None
    assert what(whole, shard("larger", 1, too_small=SHARD_SAMPLES - 1)) == ("pairs, larger", ["larger"])
    assert what(shard("alone", 1, too_small=1)) == ("pairs", ["alone"])


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_nothing_lost_or_nothing_there_is_never_too_many(rate):
    assert what(rate=rate) is None and what(shard("empty", 0), shard("whole", 5), rate=rate) is None
    assert what(shard("lost", 0, bad_record=50), rate=1.0) is None


def test_what_is_told():
    shards = [
        shard("a", 10, bad_record=3, too_small=1),
        shard("b", 5, too_small=7, corrupt_image=1, too_large=1),
    ]
    assert told(shards) == "13 of 28 samples lost (too_small 8, bad_record 3, corrupt_image 1)"
