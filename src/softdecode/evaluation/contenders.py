"""What is measured against each other: ways to make pictures of one and the same batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from torch import Tensor

from softdecode.decoder import DistributionDecoder
from softdecode.evaluation.rows import BitRates
from softdecode.images import to_uint8
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer

T = TypeVar("T", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Contender(Generic[T]):
    """One row to be: how it makes its pictures.

    Attributes:
        name, condition, steps: see `Row`.
        bits: see `Row.bits_per_pixel`.
        decode: a batch to its pictures, [b, 3, H, W] uint8 on the CPU.
    """

    name: str
    condition: str
    bits: float
    decode: Callable[[T], Tensor]
    steps: int | None = None

    @property
    def key(self) -> str:
        """`name`, or `name@steps`: tells the pictures of all rows apart."""
        return self.name if self.steps is None else f"{self.name}@{self.steps}"


class DecodableBatch(ABC):
    """A batch that VQ decoder and soft decoders can decode.

    Attributes:
        part: its places among all pictures.
        tokenizer: of the VLM.
    """

    def __init__(self, part: slice, tokenizer: ImageTokenizer) -> None:
        self.part = part
        self.tokenizer = tokenizer

    @property
    @abstractmethod
    def tokens(self) -> Tensor:
        """The chosen tokens [b, h, w] int64."""

    @abstractmethod
    def belief(self, decoder: DistributionDecoder) -> TokenDistribution:
        """What a decoder, with its calibration, is given."""

    @cached_property
    def vq(self) -> Tensor:
        """The VQ decoder's pictures, [b, 3, H, W] uint8: a row, and the drafts of decoders that see one."""
        return to_uint8(self.tokenizer.decode(self.tokens))


def vq_contenders(rates: BitRates, tuned: ImageTokenizer | None) -> list[Contender[DecodableBatch]]:
    """The VQ decoder, and where there is one, the same with its decoder trained further (see `train vq-decoder`)."""
    rows: list[Contender[DecodableBatch]] = [
        Contender(name="vq", condition="tokens", bits=rates.tokens, decode=lambda batch: batch.vq)
    ]
    if tuned is not None:

        def decode(batch: DecodableBatch) -> Tensor:
            return to_uint8(tuned.decode(batch.tokens))

        rows.append(Contender(name="vq-tuned", condition="tokens", bits=rates.tokens, decode=decode))
    return rows


def decoder_contenders(
    decoders: Mapping[str, DistributionDecoder], *, rates: BitRates, steps: Sequence[int], seed: int
) -> list[Contender[DecodableBatch]]:
    """Every decoder with every number of steps, with its own where there are none; picture i's noise has the seed
    `seed` + i."""
    contenders = []
    for name, decoder in decoders.items():
        condition, bits = rates.seen_by(decoder)
        for count in steps or (decoder.config.steps,):

            def decode(batch: DecodableBatch, decoder: DistributionDecoder = decoder, count: int = count) -> Tensor:
                pictures = decoder.denoise(
                    batch.belief(decoder),
                    seeds=range(seed + batch.part.start, seed + batch.part.stop),
                    draft=batch.vq if decoder.config.draft else None,
                    steps=count,
                )
                return to_uint8(pictures)

            contenders.append(Contender(name=name, condition=condition, bits=bits, decode=decode, steps=count))
    return contenders
