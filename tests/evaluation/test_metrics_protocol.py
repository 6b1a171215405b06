"""What results say of their metrics."""

import json

import pytest
import torch
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractors import ExtractorInfo

pytest.importorskip("softdecode.evaluation.torchmetrics")

from softdecode.cli.evaluation_options import measured_table
from softdecode.evaluation.metrics_protocol import metrics_protocol


def network(is_fid):
    module = nn.Identity()
    module.info = ExtractorInfo(name="net", weights_sha256="ab", resizer="none", width=12, is_fid=is_fid)
    return module


def test_a_protocol_is_json_and_names_network_and_weights():
    found = metrics_protocol(network(False), task="reconstruction")
    assert json.loads(json.dumps(found)) == found
    assert (found["extractor"], found["extractor_sha256"], found["lpips"]) == ("net", "ab", None)
    assert "x.y / 12" in found["kernel"]["kernel"]


@pytest.mark.parametrize(("task", "name"), [("reconstruction", "rFID"), ("generation", "gFID"), ("folders", "FID")])
def test_only_inceptions_distance_is_called_fid(task, name):
    rows = [{"name": "vq", "frechet": 2.0, "frechet_over_vq": 1.0}]
    for is_fid, heading in ((True, name), (False, "frechet")):
        text = measured_table(rows, list(rows[0]), metrics_protocol(network(is_fid), task=task))
        headings = [word.strip() for word in text.splitlines()[0].strip("|").split("|")]
        assert headings == ["name", heading, f"{heading}_over_vq"]


def test_an_unknown_network_is_refused():
    with pytest.raises(SoftDecodeError, match="Linear has no ExtractorInfo"):
        metrics_protocol(torch.nn.Linear(1, 1), task="generation")
