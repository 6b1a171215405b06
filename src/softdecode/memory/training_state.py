"""What a process holds from one training step to the next: weights, gradients, optimiser state, moving average."""

from dataclasses import dataclass
from typing import Literal

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
            what is outside of the blocks, and two blocks, one computing and one on its way.
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
        parallel: single; ddp, all of it on each process; or fsdp2, where all but the VAE is shared out.
        world: number of processes.

    Raises:
        SoftDecodeError: several processes with single, or fewer than one.
    """
    if world < 1 or (parallel == "single" and world > 1):
        raise SoftDecodeError(f"{world} processes do not go with parallel={parallel}")
    vae = tensor_bytes(model_tensors(decoder.base.vae))
    shared_out = tensor_bytes(model_tensors(decoder)) - vae
    trained = tensor_bytes(trained_parameters(decoder).values())
    if parallel != "fsdp2":
        buckets = trained if parallel == "ddp" else 0
        return TrainingState(
            weights=vae + shared_out,
            gradients=trained,
            optimizer=_MOMENTS * trained,
            average=trained,
            communication=buckets,
        )
    return TrainingState(
        weights=vae + _share(shared_out, world),
        gradients=_share(trained, world),
        optimizer=_MOMENTS * _share(trained, world),
        average=_share(trained, world),
        communication=_gathered(decoder),
    )


def _share(size: int, world: int) -> int:
    return -(-size // world)


def _gathered(decoder: DistributionDecoder) -> int:
    ids = {id(weight) for weight in trained_parameters(decoder).values()}
    layers = blocks(decoder.base.transformer)
    whole = [tensor_bytes(layer.parameters()) for layer in layers]
    gradients = [tensor_bytes(w for w in layer.parameters() if id(w) in ids) for layer in layers]
    everything = [*decoder.condition.parameters(), *decoder.base.transformer.parameters()]
    outside = tensor_bytes(everything) - sum(whole)
    return outside + 2 * max(weights + extra for weights, extra in zip(whole, gradients, strict=True))
