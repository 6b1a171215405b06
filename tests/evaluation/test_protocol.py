"""Which results may stand in one table."""

import copy
import json

from softdecode.evaluation.protocol import protocol_differences, protocol_key

RESULT = {
    "command": "evaluate reconstruction",
    "protocol": {
        "task": "reconstruction",
        "reference": "pictures",
        "data_sha256": "aa",
        "count": 5,
        "resolution": [64, 64],
        "resizer": "none",
        "crop": "none",
        "seed": 0,
        "decoders": {"soft": {"noise_scale": 0.6}},
        "metrics": {"extractor": "e", "extractor_sha256": "bb", "lpips": None, "torchmetrics": "1.8"},
    },
    "rows": [],
}


def changed(section, name, value):
    result = copy.deepcopy(RESULT)
    (result["protocol"]["metrics"] if section == "metrics" else result["protocol"])[name] = value
    return result


def test_seeds_decoders_and_versions_may_differ():
    others = [
        changed("protocol", "seed", 1),
        changed("protocol", "decoders", {}),
        changed("metrics", "torchmetrics", "2"),
    ]
    for other in others:
        assert protocol_key(other) == protocol_key(RESULT)
        assert protocol_differences(other, RESULT) == []


def test_everything_that_numbers_depend_on_must_agree():
    for name in ("task", "reference", "data_sha256", "count", "resolution", "resizer", "crop"):
        assert protocol_differences(changed("protocol", name, "other"), RESULT) == [name]
    for name in ("extractor", "extractor_sha256", "lpips"):
        assert protocol_differences(changed("metrics", name, "other"), RESULT) == [f"metrics.{name}"]
    assert protocol_differences({**RESULT, "command": "evaluate folders"}, RESULT) == ["command"]


def test_a_key_is_json():
    assert json.loads(json.dumps(protocol_key(RESULT))) == protocol_key(RESULT)
    assert protocol_key({"command": "x"})["count"] is None
