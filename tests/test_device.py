"""Device and dtype: the best there is by default, and a clear refusal of what is not here."""

import pytest
import torch

from softdecode.device import resolve_device, resolve_dtype
from softdecode.errors import SoftDecodeError


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine with so many CUDA devices, with or without MPS."""

    def pretend(cuda, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize("name", [None, "auto"])
@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(2, False, "cuda"), (1, True, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_the_best_device_is_taken_by_default(name, cuda, mps, best, machine):
    machine(cuda, mps)
    assert resolve_device(name) == torch.device(best)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps", torch.device("cuda", 0)])
def test_a_named_device_that_is_here_is_taken(name, machine):
    machine(2, True)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "cuda", "message"),
    [
        ("cuda", 0, "0 CUDA devices"),
        ("cuda:2", 2, "cuda:2 is not here: 2 CUDA"),
        (torch.device("cuda", 1), 1, "1 CUDA"),
        ("mps", 0, "mps is not here"),
        ("xpu", 0, "xpu is not supported"),
        ("gpu", 0, "unknown device 'gpu'"),
        ("", 0, "unknown device ''"),
    ],
)
def test_a_device_that_is_not_here_is_refused_by_name(name, cuda, message, machine):
    machine(cuda, False)
    with pytest.raises(SoftDecodeError, match=message):
        resolve_device(name)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        (None, "cpu", torch.float32),
        ("auto", "cpu", torch.float32),
        ("auto", "mps", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("bfloat16", "cpu", torch.bfloat16),
        ("float16", "cuda", torch.float16),
        ("float32", "cuda", torch.float32),
        (torch.float64, "cpu", torch.float64),
    ],
)
def test_the_dtype_is_the_named_one_or_the_devices_own(name, device, dtype):
    assert resolve_dtype(name, torch.device(device)) == dtype


@pytest.mark.parametrize("name", ["int8", "bf16", "torch.float32"])
def test_an_unknown_dtype_is_refused_with_those_there_are(name):
    with pytest.raises(SoftDecodeError, match=f"'{name}'.*float32, bfloat16, float16"):
        resolve_dtype(name, torch.device("cpu"))
