"""The endless shuffled stream."""

import pytest

from jielong.data.order import AlikeOrder, ShuffledOrder


@pytest.mark.parametrize("length", [1, 2, 17, 100])
def test_every_epoch_visits_each_item_once(length):
    order = ShuffledOrder(length, seed=3)
    for epoch in range(4):
        assert sorted(order.at(epoch * length, length)) == list(range(length))


def test_epochs_and_seeds_differ():
    order = ShuffledOrder(100, seed=3)
    assert order.at(0, 100) != order.at(100, 100)
    assert order.at(0, 100) != ShuffledOrder(100, seed=4).at(0, 100)
    assert ShuffledOrder(100, seed=4).at(0, 100) != order.at(100, 100)  # (seed, epoch) is not seed + epoch


def test_a_position_holds_the_same_item_however_it_is_reached():
    stream = ShuffledOrder(10, seed=1).at(0, 50)
    assert ShuffledOrder(10, seed=1).at(23, 20) == stream[23:43]  # resumed in the middle of an epoch
    order = ShuffledOrder(10, seed=1)
    assert [order.at(p, 1)[0] for p in reversed(range(50))] == stream[::-1]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_processes_share_the_global_batch(world):
    order = ShuffledOrder(10, seed=1)
    for position in (0, 6, 12):
        parts = [ShuffledOrder(10, seed=1).batch(position, 6, rank, world) for rank in range(world)]
        assert [i for part in parts for i in part] == order.at(position, 6)
        assert {len(part) for part in parts} == {6 // world}


def test_impossible_shares_are_refused():
    order = ShuffledOrder(10)
    with pytest.raises(ValueError, match="multiple of 4"):
        order.batch(0, 6, 0, 4)
    with pytest.raises(ValueError, match="rank 2"):
        order.batch(0, 6, 2, 2)
    with pytest.raises(ValueError, match="at least one"):
        ShuffledOrder(0)


def test_alike_batches_bring_the_same_items_in_batches_of_similar_lengths() -> None:
    lengths = [(37 * item) % 100 + 1 for item in range(64)]
    order, plain = AlikeOrder(lengths, batch=4, seed=1), ShuffledOrder(64, seed=1)
    for pool in range(4):
        assert sorted(order.at(32 * pool, 32)) == sorted(plain.at(32 * pool, 32))
    whole = order.at(0, 128)
    assert sorted(whole[:64]) == list(range(64))
    assert [order.at(first, 8) for first in range(0, 128, 8)] == [whole[first : first + 8] for first in range(0, 128, 8)]
    assert AlikeOrder(lengths, batch=4, seed=1).at(77, 9) == whole[77:86]  # a resumed run
    batches = [[lengths[item] for item in whole[first : first + 4]] for first in range(0, 128, 4)]
    assert sum(max(each) - min(each) for each in batches) / len(batches) < 15  # and 60 without
    firsts = [min(each) for each in batches]
    assert firsts[:8] != sorted(firsts[:8])
