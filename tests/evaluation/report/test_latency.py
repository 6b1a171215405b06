"""Table 5: latency, with quality only of the very decoder that was timed."""

import pytest

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.inputs import find_sources
from softdecode.evaluation.report.latency import latency_table, seconds
from softdecode.evaluation.report.pool import make_pools

LATENCY = {
    "command": "latency",
    "pipeline_seconds": {"vq": 2.0, "soft@8": 3.0, "soft@4": 2.5},
    "batch_size": 8,
    "rounds": 5,
    "device": "cpu",
    "codebook_sha256": "c" * 64,
    "decoder": {"name": "soft", "mode": "soft", "noise_scale": 0.6, "kappa": 30.0, "hidden_channels": 7},
}


@pytest.fixture
def make(write):
    def run(content, *results):
        paths = [write("latency.json", content), *(write(f"{n}/result.json", r) for n, r in enumerate(results))]
        source, *others = find_sources(paths)
        return latency_table(source, make_pools(others))

    return run


def test_ratios_come_from_the_seconds_in_the_order_of_steps(make):
    table, warnings = make(LATENCY)
    assert [row["name"] for row in table.rows] == ["VLM + VQ decoder", "VLM + soft", "VLM + soft"]
    assert [row["steps"] for row in table.rows] == [None, 4, 8]
    assert [row["latency_ratio"] for row in table.rows] == pytest.approx([1, 1.25, 1.5])
    assert [row["latency_change"] for row in table.rows] == [None, "+25.00%", "+50.00%"]
    assert "batch of 8" in table.caption
    assert "frechet" not in table.columns
    assert warnings[0].endswith("no generation result is of this decoder")


def test_quality_stands_beside_the_latency_of_the_same_decoder(make, results):
    table, warnings = make(LATENCY, results.generation(), results.reconstruction())
    assert warnings == []
    assert [row["frechet"] for row in table.rows] == [80, 40, None], "8 steps were not measured"
    assert [row["frechet_change"] for row in table.rows] == [None, "-50.00%", None]
    assert "reference: drawn shapes" in table.caption
    assert len(set(table.columns.values())) == len(table.columns)


@pytest.mark.parametrize(
    "change",
    [
        {"codebook_sha256": "0" * 64},
        {"decoder": {"name": "joint"}},
        {"decoder": {"name": "hard", "mode": "soft"}},
        {"decoder": {**LATENCY["decoder"], "kappa": 31.0}},
    ],
)
def test_another_decoders_quality_never_does(make, results, change):
    rows = [results.row("vq", 80), results.row("hard", 60, 4), results.row("soft", 40, 4)]
    table, warnings = make(LATENCY | change, results.result(rows, task="generation"))
    assert "frechet" not in table.columns
    assert len(warnings) == 1


def test_of_several_results_none_is_chosen(make, results):
    table, warnings = make(LATENCY, results.generation(), results.generation(count=7))
    assert "frechet" not in table.columns
    assert warnings[0].endswith("several generation results fit")


@pytest.mark.parametrize(
    "ways",
    [
        *(None, {}, {"vq": 1.0}, {"soft@4": 1.0}, {"vq": 0.0, "soft@4": 1.0}),
        *({"vq": 1.0, "soft@4": None}, {"vq": 1.0, "soft@4": "2"}, {"vq": 1.0, "soft@many": 2.0}),
    ],
)
def test_a_file_without_the_seconds_is_refused(write, ways):
    (source,) = find_sources([write("l.json", {"command": "latency", "pipeline_seconds": ways})])
    with pytest.raises(SoftDecodeError, match="measure it again"):
        seconds(source)
