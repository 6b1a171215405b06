"""What a process holds from one training step to the next: weights, gradients, optimiser state, moving average."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from softdecode.decoder import DistributionDecoder
from softdecode.errors import SoftDecodeError
from softdecode.memory.blocks import blocks
from softdecode.memory.peak import model_tensors, tensor_bytes
from softdecode.trained import trained_parameters

Parallel = Literal["single", "ddp", "fsdp2"]
_MOMENTS = 2  # AdamW's, for each weight


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Bytes on one process, all float32 but for frozen weights.

    Attributes:
        weights: the decoder's, frozen ones and trained ones; those of the VAE, which stays for previews, included.
        gradients: of the trained weights.
        optimizer: AdamW's two moments.
        average: the moving average of the trained weights.
        communication: DDP's buckets, which hold the gradients once more; FSDP2's gathered weights and their gradients:
            what is trained outside of the blocks, and two blocks, one computing and one on its way.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    communication: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.communication


def training_state(decoder: DistributionDecoder, parallel: Parallel = "single", world: int = 1) -> TrainingState:
    """The state of one of `world` processes.

    Args:
        decoder: as `trained.train_only` leaves it; on any device, also meta.
        parallel: single; ddp, all of it on each process; or fsdp2, where blocks and trained weights are shared out, and
            what is frozen outside of the blocks, the VAE among it, is on each process.
        world: number of processes.

    Raises:
        SoftDecodeError: several processes with single, or fewer than one.
    """
    if world < 1 or (parallel == "single" and world > 1):
        raise SoftDecodeError(f"{world} processes do not go with parallel={parallel}")
    everything = tensor_bytes(model_tensors(decoder))
    trained = tensor_bytes(trained_parameters(decoder).values())
    if parallel != "fsdp2":
        buckets = trained if parallel == "ddp" else 0
        return TrainingState(
            weights=everything,
            gradients=trained,
            optimizer=_MOMENTS * trained,
            average=trained,
            communication=buckets,
        )
    layers = [_layer_bytes(decoder, layer) for layer in blocks(decoder.base.transformer)]
    in_blocks, trained_in_blocks = sum(whole for whole, _ in layers), sum(part for _, part in layers)
    trained_outside = trained - trained_in_blocks
    shared_out = in_blocks + trained_outside
    return TrainingState(
        weights=everything - shared_out + _share(shared_out, world),
        gradients=_share(trained, world),
        optimizer=_MOMENTS * _share(trained, world),
        average=_share(trained, world),
        communication=2 * trained_outside + 2 * max(whole + part for whole, part in layers),
    )


def _share(size: int, world: int) -> int:
    return -(-size // world)


def _layer_bytes(decoder: DistributionDecoder, layer: nn.Module) -> tuple[int, int]:
    """Bytes of a block's weights, and of its trained ones."""
    ids = {id(weight) for weight in trained_parameters(decoder).values()}
    weights = list(layer.parameters())
    return tensor_bytes(weights), tensor_bytes(weight for weight in weights if id(weight) in ids)
