"""The processes of a training run: found from whatever launched them, and connected once."""

import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import ProjectConfiguration

from softdecode.errors import SoftDecodeError
from softdecode.training.config import LoopConfig

_PATIENCE = timedelta(days=1)
# accelerate's ways of wrapping a model, as `accelerate launch` asks for them; ours is chosen by `LoopConfig.parallel`.
_FOREIGN = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def connect(device: torch.device) -> PartialState:
    """This process's place among those that `accelerate launch`, torchrun or SLURM started; alone where none did.

    The first call connects them, by NCCL on CUDA devices and by gloo on the CPU; later ones only look it up.

    Raises:
        SoftDecodeError: several processes on a device that they cannot share, or a launcher that said too little.
    """
    _adopt_slurm()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and (device.type == "mps" or device.index is not None):
        raise SoftDecodeError(
            f"{world} processes cannot share the device {device}; use --device cpu, or cuda without a number"
        )
    for variable, name in _FOREIGN.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise SoftDecodeError(f"accelerate was told to use {name}; launch without it, and use --loop.parallel")
    # `cpu` only where several processes need it: alone, accelerate has no say in the device.
    # The others wait while one process fetches or hashes a data set, which may take hours.
    patience = {"timeout": _PATIENCE} if world > 1 else {}
    state = PartialState(cpu=world > 1 and device.type == "cpu", **patience)
    if state.num_processes != world:
        raise SoftDecodeError(
            f"{world} processes were launched, but they could not be connected on {device}; see docs/distributed.md"
        )
    return state


def build_accelerator(config: LoopConfig, device: torch.device, output: Path) -> Accelerator:
    """The one accelerator of a run. Arithmetic and accumulation stay with the loop, whatever the launcher says.

    Raises:
        SoftDecodeError: see `connect`; or a tracker that is unknown or not installed.
    """
    connect(device)
    _check_trackers(config.trackers)
    return Accelerator(
        mixed_precision="no",
        device_placement=False,
        gradient_accumulation_steps=1,
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(output), logging_dir=str(output / "trackers")),
    )


def _check_trackers(names: tuple[str, ...]) -> None:
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers  # imports every tracker it finds

    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise SoftDecodeError(f"unknown tracker {name!r}; expected {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name not in available:
            raise SoftDecodeError(f"the tracker {name} is not installed; run `pip install {name}`, or train without it")


def _adopt_slurm() -> None:
    """Let tasks that srun started find each other; where torchrun started us inside of srun, it has said so already."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1 or "RANK" in os.environ:
        return
    if int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) > 1 and "MASTER_ADDR" not in os.environ:
        raise SoftDecodeError(
            "srun started tasks on several nodes; export MASTER_ADDR, the first node's host name, in the job script"
        )
    job = int(os.environ.get("SLURM_JOB_ID", "0"))
    found = {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": str(tasks),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"),
        # The same on all tasks, and another one for another job on the node.
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(20000 + job % 20000)),
    }
    os.environ.update(found)
