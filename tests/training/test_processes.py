"""What launchers say in the environment, and what is refused of it. Real processes are in test_distributed.py."""

import os

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.training import processes

CPU = torch.device("cpu")
SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "123456",
    "MASTER_ADDR": "node7",
}
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    """No launcher's variables but those that a test sets; `_adopt_slurm`'s own are taken back."""
    for name in (*LAUNCH, *SLURM, *processes._FOREIGN):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever the test does
        monkeypatch.delenv(name)
    return monkeypatch


def adopted(environment, **variables):
    for name, value in variables.items():
        environment.setenv(name, value)
    processes._adopt_slurm()
    return {name: os.environ[name] for name in LAUNCH if name in os.environ}


def test_without_a_launcher_a_process_is_alone(environment):
    state = processes.connect(CPU)
    assert (state.num_processes, state.process_index, state.is_main_process) == (1, 0, True)


def test_srun_says_who_is_who(environment):
    found = adopted(environment, **SLURM)
    assert found == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "node7",
        "MASTER_PORT": str(20000 + 123456 % 20000),
    }


def test_on_one_node_srun_needs_no_address(environment):
    variables = {name: value for name, value in SLURM.items() if name != "MASTER_ADDR"}
    found = adopted(environment, **variables | {"SLURM_STEP_NUM_NODES": "1"})
    assert (found["MASTER_ADDR"], found["WORLD_SIZE"]) == ("127.0.0.1", "4")


def test_several_nodes_need_an_address(environment):
    variables = {name: value for name, value in SLURM.items() if name != "MASTER_ADDR"}
    with pytest.raises(SoftDecodeError, match="export MASTER_ADDR"):
        adopted(environment, **variables)


@pytest.mark.parametrize("variables", [{"SLURM_NTASKS": "4"}, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}])
def test_a_batch_script_itself_is_alone(environment, variables):
    assert adopted(environment, **variables).keys() <= {"MASTER_ADDR"}


def test_torchrun_inside_of_srun_has_the_last_word(environment):
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}
    assert adopted(environment, **SLURM, **given) == {**given, "MASTER_ADDR": "node7"}


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_processes_cannot_share_a_device(environment, device):
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(SoftDecodeError, match=f"2 processes cannot share the device {device}"):
        processes.connect(torch.device(device))


@pytest.mark.parametrize(("name", "kind"), processes._FOREIGN.items())
def test_accelerates_own_sharding_is_refused(environment, name, kind):
    environment.setenv(name, "true")
    with pytest.raises(SoftDecodeError, match=f"told to use {kind}; .*--loop.parallel"):
        processes.connect(CPU)
