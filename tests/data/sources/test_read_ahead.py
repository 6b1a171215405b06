"""Work done ahead, its results in order."""

import threading
from itertools import count, islice

import pytest

from softdecode.data.sources.read_ahead import read_ahead


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads):
    assert list(read_ahead(lambda item: item * item, range(100), threads)) == [item * item for item in range(100)]
    assert list(read_ahead(lambda item: item, [], threads)) == []


def test_threads_work_at_the_same_time():
    """Each of two items waits for the other."""
    both = threading.Barrier(2, timeout=10)
    assert sorted(read_ahead(lambda _: both.wait(), range(2), 2)) == [0, 1]


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 8)])
def test_only_a_few_items_are_taken_ahead(threads, ahead):
    taken = []
    items = (taken.append(item) or item for item in count())
    results = read_ahead(lambda item: item, items, threads)
    assert list(islice(results, 10)) == list(range(10))
    assert len(taken) == 10 + ahead - 1


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_its_place(threads):
    results = read_ahead(lambda item: 12 // (5 - item), range(20), threads)
    assert list(islice(results, 5)) == [2, 3, 4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_end_with_their_reader():
    before = threading.active_count()
    results = read_ahead(lambda item: item, count(), 4)
    next(results)
    results.close()
    assert threading.active_count() == before
