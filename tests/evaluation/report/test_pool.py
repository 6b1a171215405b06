"""What may share a table does, and nothing else; ratios are of the table."""

import pytest

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.inputs import find_sources
from softdecode.evaluation.report.pool import make_pools


@pytest.fixture
def pools(write):
    def make(*contents, **options):
        paths = [write(f"{place}/result.json", content) for place, content in enumerate(contents)]
        return make_pools(find_sources(paths), **options)

    return make


OTHERS = {
    "count": 50,
    "resolution": [128, 128],
    "resizer": "Lanczos",
    "crop": "centre",
    "data_sha256": "f" * 64,
    "reference": "photographs",
    "codebook_sha256": "a" * 64,
}


@pytest.mark.parametrize("field", OTHERS)
def test_results_of_another_protocol_are_apart(pools, results, field):
    other = results.reconstruction(**{field: OTHERS[field]})
    assert len(pools(results.reconstruction(), other)) == 2
    with pytest.raises(SoftDecodeError, match=rf"cannot share a table: they differ in {field}: .* against .*--one-"):
        pools(results.reconstruction(), other, one_table=True)


@pytest.mark.parametrize(
    "change", [{"extractor": "inception-v3"}, {"extractor_sha256": "0" * 64}, {"ssim": {"window": 7}}]
)
def test_results_of_other_metrics_are_apart(pools, results, change):
    other = results.reconstruction(metrics={**results.metrics, **change})
    assert len(pools(results.reconstruction(), other)) == 2
    with pytest.raises(SoftDecodeError, match=f"differ in metrics.{next(iter(change))}"):
        pools(results.reconstruction(), other, one_table=True)


def test_drawn_pictures_of_another_vlm_or_sampling_are_apart(pools, results):
    usual = results.generation(models={"model": None, "device": "cpu"})
    assert len(pools(usual, results.generation(models={"model": "other", "device": "cpu"}))) == 2
    assert len(pools(usual, results.generation(sampling={"temperature": 2.0}))) == 2


def test_seeds_decoders_devices_and_versions_may_differ(pools, results):
    first = results.generation(models={"model": None, "device": "cpu"})
    second = results.generation(
        models={"model": None, "device": "cuda"},
        seed=1,
        vlm_seconds=3.0,
        decoders={},
        metrics={**results.metrics, "torchmetrics": "9"},
    )
    (pool,) = pools(first, second, one_table=True)
    assert [source.number for source in pool.sources] == [1, 2]


def test_reconstruction_and_generation_are_apart_even_where_one_table_is_asked_for(pools, results):
    assert len(pools(results.reconstruction(), results.generation(), one_table=True)) == 2


def test_rows_that_several_results_measured_alike_appear_once(pools, results):
    row = results.row
    first = results.result([row("vq", 100), row("hard", 80, 4)])
    second = results.result([row("vq", 100 * (1 + 1e-9)), row("soft", 50, 4)])
    (pool,) = pools(first, second)
    assert [entry.label for entry in pool.entries] == ["vq", "hard", "soft"]
    assert [entry.row["frechet_over_vq"] for entry in pool.entries] == pytest.approx([1, 0.8, 0.5])


def test_rows_of_one_name_that_contradict_each_other_are_numbered_and_held_against_their_own_baseline(pools, results):
    row = results.row
    first = results.result([row("vq", 100), row("soft", 50, 4)])
    second = results.result([row("vq", 200), row("soft", 50.1, 4), row("joint", 20, 4)], seed=1)
    (pool,) = pools(first, second)
    ratios = {entry.label: entry.row["frechet_over_vq"] for entry in pool.entries}
    assert list(ratios)[:2] == ["vq [1]", "vq [2]"], "what the others are held against comes first"
    expected = {"vq [1]": 1, "soft [1]": 0.5, "vq [2]": 1, "soft [2]": 0.2505, "joint": 0.1}
    assert ratios == pytest.approx(expected)


def test_a_name_with_two_meanings_is_numbered_though_the_steps_differ(pools, results):
    row = results.row
    other = {"soft": {**results.settings["soft"], "source": "teacher-forced"}}
    (pool,) = pools(results.result([row("soft", 50, 4)]), results.result([row("soft", 40, 8)], decoders=other))
    assert [entry.label for entry in pool.entries] == ["soft [1]", "soft [2]"]


def test_one_decoder_measured_with_other_steps_in_another_run_stays_one(pools, results):
    row = results.row
    (pool,) = pools(results.result([row("soft", 50, 4)]), results.result([row("soft", 40, 8)]))
    assert [(entry.label, entry.steps) for entry in pool.entries] == [("soft", 4), ("soft", 8)]


def test_a_result_without_the_vq_row_is_held_against_the_tables(pools, results):
    row = results.row
    (pool,) = pools(results.result([row("soft", 50, 4)]), results.result([row("vq", 200)]))
    assert {entry.label: entry.row["frechet_over_vq"] for entry in pool.entries} == {"vq": 1, "soft": 0.25}


def test_without_any_vq_row_there_is_no_ratio(pools, results):
    (pool,) = pools(results.result([results.row("soft", 50, 4)]))
    assert pool.entries[0].row["frechet_over_vq"] is None


def test_missing_rows_are_named(pools, results):
    (pool,) = pools(results.result([results.row("soft", 50, 4)]))
    assert [warning.split("`")[1] for warning in pool.warnings] == ["vae-ceiling", "vq", "hard"]
    (pool,) = pools(results.result([results.row("soft", 50, 4)], task="generation"))
    assert [warning.split("`")[1] for warning in pool.warnings] == ["vq", "hard"], "nothing is encoded there"
    (pool,) = pools(results.reconstruction())
    assert pool.warnings == []


def test_one_row_of_each_decoder_with_the_most_steps_or_those_asked_for(pools, results):
    (pool,) = pools(results.reconstruction())
    always = [("vae-ceiling", None), ("vq", None)]
    assert [(entry.label, entry.steps) for entry in pool.at_steps(None)] == [
        *always, ("hard", 4), ("soft-raw", 4), ("soft", 4)
    ]  # fmt: skip
    assert [(entry.label, entry.steps) for entry in pool.at_steps(2)] == [*always, ("hard", 2), ("soft", 2)]
    assert pool.left_out(2) == ["soft-raw"]
    assert pool.left_out(None) == []


def test_rows_that_two_baselines_could_be_theirs_have_no_ratio_and_a_warning(pools, results):
    row = results.row
    contents = [[row("vq", 100)], [row("vq", 200)], [row("soft", 50, 4)]]
    (pool,) = pools(*(results.result(rows) for rows in contents))
    assert [entry.row["frechet_over_vq"] for entry in pool.entries] == [1, 1, None]
    assert "no ratio over VQ" in pool.warnings[0]


def test_models_that_agree_in_a_category_are_two_for_all_that(write):
    rows = [{"name": "colors", "accuracy": 0.5, "count": 8}, {"name": "overall", "accuracy": 0.5, "count": 8}]
    paths = []
    for place, accuracy in enumerate((0.25, 0.75)):
        own = [{"name": "counting", "accuracy": accuracy, "count": 8}, *rows]
        protocol = {"task": "geneval", "results": f"run{place}/soft/results.jsonl"}
        paths.append(write(f"{place}.json", {"command": "evaluate geneval", "protocol": protocol, "rows": own}))
    (pool,) = make_pools(find_sources(paths))
    found = {(entry.label, entry.category): entry.row["accuracy"] for entry in pool.entries}
    assert found["soft [1]", "colors"] == found["soft [2]", "colors"] == 0.5
    assert (found["soft [1]", "counting"], found["soft [2]", "counting"]) == (0.25, 0.75)


def test_folders_that_were_measured_twice_as_a_baseline_appear_once(write):
    """As vq/ beside each of two soft trees: both ratios are over the one."""
    paths = []
    for run, soft in (("a", 75.0), ("b", 62.5)):
        for name, frechet in (("vq", 100.0), (f"soft-{run}", soft)):
            rows = [{"name": "overall", "frechet": frechet, "count": 9}]
            protocol = {"task": "folders", "images": f"{run}/{name}"}
            paths.append(
                write(f"{run}-{name}.json", {"command": "evaluate folders", "protocol": protocol, "rows": rows})
            )
    (pool,) = make_pools(find_sources(paths))
    ratios = {entry.label: entry.row["frechet_over_vq"] for entry in pool.entries}
    assert ratios == {"vq": 1.0, "soft-a": 0.75, "soft-b": 0.625}
    assert not any("ratio" in warning for warning in pool.warnings)


def test_weights_tell_decoders_of_one_name_apart_and_older_results_say_nothing_of_them(pools, results):
    """With other numbers of steps nothing else would."""

    def measured(steps, **said):
        decoders = {"soft": {**results.settings["soft"], **said}}
        return results.result([results.row("soft", 50, steps)], decoders=decoders)

    (pool,) = pools(measured(4, weights_sha256="a"), measured(8, weights_sha256="b"))
    assert [entry.label for entry in pool.entries] == ["soft [1]", "soft [2]"]
    (pool,) = pools(measured(4, weights_sha256="a"), measured(8))
    assert [entry.label for entry in pool.entries] == ["soft", "soft"]
