"""What is learnt from pictures that are held in memory: tokenizer, VAE, VQ decoder."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from softdecode.images import to_unit_range
from softdecode.training.augment import Augmentation, augmented
from softdecode.training.previews import PREVIEWED, preview_sheet
from softdecode.training.task import Task


class PictureTask(Task):
    """Trains a model that gives pictures back.

    Args:
        images: [M, 3, H, W] uint8, to learn from.
        augmentation: of each of them.
        shown: [P, 3, H, W] uint8, for previews; the first training pictures where None.
    """

    def __init__(self, images: Tensor, augmentation: Augmentation, shown: Tensor | None = None) -> None:
        super().__init__()
        self.images = images
        self.augmentation: Augmentation = augmentation
        self.samples = len(images)
        self.shown = images[:PREVIEWED] if shown is None else shown

    def augmented(self, indices: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Training pictures [B, 3, H, W] float32 in [-1, 1]."""
        return to_unit_range(augmented(self.images[indices], self.augmentation, generators))

    @abstractmethod
    def given_back(self, images: Tensor) -> Tensor:
        """What the model makes of pictures, both [B, 3, H, W] in [-1, 1]."""

    def preview(self, step: int) -> Image.Image:
        images = to_unit_range(self.shown).to(next(self.parameters()).device)
        return preview_sheet({"picture": images, "decoded": self.given_back(images)})
