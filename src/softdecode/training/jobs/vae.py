"""The job that trains the latent VAE."""

from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderKL

from softdecode.files import atomic_folder, load_strictly
from softdecode.loading import load_pretrained, save_quietly
from softdecode.training.jobs.pictures import PictureJob
from softdecode.training.vae import VaeConfig, VaeTask, build_vae, set_latent_scale


@dataclass(frozen=True, kw_only=True)
class VaeJob(PictureJob):
    """Train the latent VAE."""

    model: VaeConfig = field(default_factory=VaeConfig)
    """Its size."""

    def run(self) -> None:
        data = self.pictures()
        torch.manual_seed(self.loop.seed)
        model = build_vae(self.model, data.images.shape[-1])
        if self.initial is not None:
            trained = load_pretrained(AutoencoderKL, self.initial)
            load_strictly(model.state_dict(), trained.state_dict(), str(self.initial))
        task = VaeTask(model, data.images, self.model, self.changes, self.shown_images())
        self.train(task, data.digest)
        if not self.processes.is_main_process:
            return
        set_latent_scale(model.cpu(), data.images[:: max(1, len(data) // 1024)])
        with atomic_folder(self.output / "model") as folder:
            save_quietly(model, folder)
