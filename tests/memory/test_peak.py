"""Peak memory, against sums by hand and the same computation on real tensors."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from softdecode.latents import pack
from softdecode.memory.peak import PeakMemory, model_tensors, tensor_bytes


def test_what_lives_at_once_is_what_counts():
    weight, x = torch.empty(1000, 1000), torch.empty(10, 1000)
    with PeakMemory([weight, x]) as memory:
        y = x @ weight.t()  # 40,000 bytes; the view is none
        z = y.relu()
        del y
        u = z.view(-1) + 1
        kept = u[:5]
        del u, z
    assert memory.peak == 80_000
    assert memory.live == 40_000, "a view keeps its storage"
    assert kept.numel() == 5


def test_the_meta_device_has_the_peak_of_the_real_one(make_base):
    base = make_base()
    peaks = []
    for device in ("cpu", "meta"):
        moved = base.with_own_transformer().to(device)
        tokens = pack(torch.zeros(3, 2, 8, 8, device=device))
        condition = torch.zeros(3, 16, base.token_dim, device=device)
        times = torch.full((3,), 0.5, device=device)
        known = [*model_tensors(moved), tokens, condition, times]
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), PeakMemory(known) as memory:
            moved.velocity(tokens, times, condition, (4, 4))
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1] > 3 * 16 * base.token_dim * 4


def test_bytes_of_shared_storages_count_once():
    whole = torch.empty(100, dtype=torch.bfloat16)
    assert tensor_bytes([whole, whole[:50], torch.empty(4)]) == 216
