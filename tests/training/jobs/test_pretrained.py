"""The job on a published base: what it does first."""

from dataclasses import replace

import pytest

from softdecode.training.jobs import pretrained
from softdecode.training.jobs.job import Job
from softdecode.training.presets.paper import janus_pro_flux_fill


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_processes_are_connected_before_any_model_is_loaded(parallel, monkeypatch):
    """Before that `cuda` is the first GPU, for every process."""
    done = []

    def load(*_arguments, **_options):
        done.append("load")
        raise KeyboardInterrupt

    def processes(_self):
        done.append("connect")
        return type("State", (), {"num_processes": 2, "is_main_process": True})()

    monkeypatch.setattr(Job, "processes", property(processes))
    monkeypatch.setattr(pretrained, "load_vlm", load)
    job = janus_pro_flux_fill()
    job = replace(job, device="cpu", loop=replace(job.loop, parallel=parallel))
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert done == ["connect", "load"]
