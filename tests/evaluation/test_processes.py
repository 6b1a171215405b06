"""How work is shared out; what travels between processes is tested where it is used, with real ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softdecode.evaluation.processes import ALONE, Processes, joined_processes


@given(count=st.integers(0, 200), batch_size=st.integers(1, 30), size=st.integers(1, 9))
def test_shares_are_the_batches_of_one_process_in_order(count, batch_size, size):
    shares = [Processes(rank=rank, size=size).share(count, batch_size) for rank in range(size)]
    assert [start for share in shares for start in share] == list(range(0, count, batch_size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares[0] or not count, "rank 0 has something wherever there is anything"


def test_alone_nothing_travels():
    value = object()
    assert ALONE.gather(value) == [value]
    assert ALONE.from_main(value) is value
    ALONE.wait()


@pytest.mark.parametrize("world", [None, "1"])
def test_without_a_launcher_a_process_is_alone(monkeypatch, world):
    if world is None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("WORLD_SIZE", world)
    with joined_processes() as processes:
        assert processes == ALONE
