"""Tables 2, 3, 4 and 6 from results."""

import pytest

from softdecode.evaluation.report.inputs import find_sources
from softdecode.evaluation.report.pool import make_pools
from softdecode.evaluation.report.quality import ablation_table, category_table, ingredients, main_table, steps_table


@pytest.fixture
def pool(write):
    def make(*contents):
        paths = [write(f"{place}/result.json", content) for place, content in enumerate(contents)]
        (found,) = make_pools(find_sources(paths))
        return found

    return make


def column(table, name):
    return [row.get(name) for row in table.rows]


def test_the_main_table_has_every_decoder_once_and_ratios_of_its_own(pool, results):
    table = main_table(pool(results.reconstruction()))
    assert table.number == 2
    assert column(table, "name") == ["vae-ceiling", "vq", "hard", "soft-raw", "soft"]
    assert column(table, "steps") == [None, None, 4, 4, 4]
    assert column(table, "frechet_over_vq") == pytest.approx([0.1, 1, 0.6, 0.75, 0.5])
    assert column(table, "bits_per_pixel") == [16, 0.5, 0.5, 3, 3]
    text = table.markdown()
    assert "**50**" in text, "the best but for the ceiling"
    assert "**10**" not in text
    assert "**40**" not in text
    assert "**23**" in text


def test_generation_is_table_3_without_columns_that_nothing_was_measured_for(pool, results):
    table = main_table(pool(results.generation()))
    assert table.number == 3
    assert not {"psnr", "ssim", "lpips"} & table.columns.keys()
    assert "lpips" in main_table(pool(results.result([results.row("vq", 3, lpips=0.1)]))).columns


def test_the_caption_states_the_protocol_in_one_line(pool, results):
    caption = main_table(pool(results.reconstruction(), results.reconstruction(seed=5))).caption
    assert "\n" not in caption
    for part in (
        *("reference: drawn shapes", "data dddddddd", "100 pictures", "64×64 px", "resizer: none"),
        *("extractor tiny-net (eeeeeeee): not FID", "noise scale 0.6", "seed 0 and 5", "inputs [1][2]"),
    ):
        assert part in caption
    assert "a part of the split" not in caption
    assert "a part of the split" in main_table(pool(results.reconstruction(whole_split=False))).caption
    assert "temperature 1.0" in main_table(pool(results.generation())).caption
    assert "100 pictures against 30000" in main_table(pool(results.generation(reference_count=30000))).caption


@pytest.mark.parametrize(("task", "name"), [("reconstruction", "rFID"), ("generation", "gFID")])
def test_a_distance_is_called_fid_only_where_the_result_says_so(pool, results, task, name):
    rows = [results.row("vq", 3)]
    plain = main_table(pool(results.result(rows, task=task)))
    assert plain.columns["frechet"] == "Frechet ↓"
    metrics = {**results.metrics, "extractor": "inception-v3", "frechet_name": name}
    table = main_table(pool(results.result(rows, task=task, metrics=metrics)))
    assert (table.columns["frechet"], table.columns["kernel"]) == (f"{name} ↓", "KID ↓")
    assert "not FID" not in table.caption


def folders(results, images, rows, **protocol):
    """What `evaluate folders` writes: one decoder's pictures, rows by category."""
    return results.result(rows, task="folders", images=images, codebook_sha256=None, **protocol)


def test_paired_folders_are_reconstructions(pool, results):
    for paired, number in ((True, 2), (False, 3)):
        rows = [results.row("overall", 3)]
        assert main_table(pool(folders(results, "out/vq", rows, paired=paired))).number == number


def test_the_ablation_goes_from_hard_to_calibrated_beside_the_baselines(pool, results):
    source = {"source": "teacher-forced", "kappa": 1.0, "epsilon": 0.0}
    decoders = {**results.settings, "forced": {**results.settings["soft"], **source}}
    rows = [results.row(name, 50, 4) for name in ("joint", "forced", "soft", "soft-raw", "hard")]
    rows += [results.row("vq", 100), results.row("vae-ceiling", 10), results.row("vq-soft", 90)]
    found = pool(results.result(rows, decoders=decoders))
    table = ablation_table(found)
    assert table is not None
    assert list(zip(column(table, "name"), column(table, "ingredients"), strict=True)) == [
        ("vae-ceiling", None),
        ("vq", None),
        ("hard", "hard codes"),
        ("soft-raw", "LCDM"),
        ("soft", "LCDM + LC"),
        ("forced", "LCDM, trained on the VLM's own logits"),
        ("joint", "LCDM + LC + hard codes"),
    ]
    assert found.warnings == []


def test_an_ablation_that_lacks_a_step_or_changes_more_than_one_thing_says_so(pool, results):
    decoders = {**results.settings, "soft": {**results.settings["soft"], "draft": False, "noise_scale": 0.9}}
    rows = [results.row(name, 50, 4) for name in ("hard", "soft", "vq", "vae-ceiling")]
    found = pool(results.result(rows, decoders=decoders))
    assert ablation_table(found) is not None
    assert found.warnings == [
        "the ablation has no decoder of LCDM",
        "the ablation's decoders also differ in draft and noise_scale",
    ]


def test_one_decoder_alone_is_no_ablation(pool, results):
    assert ablation_table(pool(results.result([results.row("vq", 100), results.row("soft", 50, 4)]))) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "hard", "kappa": 30}, "hard codes"),
        ({"mode": "soft", "kappa": 1, "epsilon": 0}, "LCDM"),
        ({"mode": "soft", "kappa": 1, "epsilon": 0.1}, "LCDM + LC"),
        ({"mode": "soft", "kappa": 30, "source": "proxy"}, "LCDM + LC"),
        ({"mode": "joint", "source": "teacher-forced"}, "LCDM, trained on the VLM's own logits + hard codes"),
    ],
)
def test_ingredients_in_the_papers_words(settings, said):
    assert ingredients(settings) == said


def test_the_steps_table_has_all_steps_and_what_to_hold_them_against(pool, results):
    table = steps_table(pool(results.reconstruction()))
    assert table is not None
    rows = list(zip(column(table, "name"), column(table, "steps"), strict=True))
    decoders = [("hard", 2), ("hard", 4), ("soft", 2), ("soft", 4)]
    assert rows == [("vae-ceiling", None), ("vq", None), *decoders]
    assert steps_table(pool(results.generation())) is None, "one number of steps is none to compare"


def test_folders_are_named_by_their_pictures_and_categories_are_rows(pool, results):
    row = results.row
    found = pool(
        folders(results, "drawn/vq", [row("overall", 10, count=300), row("people", 30, count=30)]),
        folders(results, "drawn/soft.npz", [row("overall", 12, count=300), row("people", 25, count=30)]),
    )
    table = category_table(found)
    assert table is not None
    assert table.rows == [
        {"category": "overall", "count": 300, "vq": 10.0, "soft": 12.0},
        {"category": "people", "count": 30, "vq": 30.0, "soft": 25.0},
    ]
    assert "**10**" in table.markdown()
    assert "**25**" in table.markdown()
    assert column(main_table(found), "frechet") == [10, 12], "the main table is about all pictures"
    assert column(main_table(found), "frechet_over_vq") == pytest.approx([1, 1.2])
    assert found.warnings == []


def test_categories_of_other_counts_share_no_row(pool, results):
    row = results.row
    found = pool(
        folders(results, "vq", [row("overall", 10, count=300), row("people", 30, count=30)]),
        folders(results, "soft", [row("overall", 12, count=300), row("people", 25, count=29)]),
    )
    table = category_table(found)
    assert table is not None
    assert [row.keys() & {"vq", "soft"} for row in table.rows] == [{"vq", "soft"}, {"vq"}, {"soft"}]


def test_results_without_categories_have_no_such_table(pool, results):
    assert category_table(pool(results.generation())) is None
    assert category_table(pool(folders(results, "vq", [results.row("overall", 10)]))) is None


def test_geneval_is_a_table_of_tags_in_percent(pool):
    def judged(path, *accuracies):
        names = ("counting", "colors", "overall")
        rows = [{"name": n, "accuracy": a, "count": 4} for n, a in zip(names, accuracies, strict=True)]
        protocol = {"task": "geneval", "results": path, "results_sha256": path, "count": 8}
        return {"command": "evaluate geneval", "protocol": protocol, "rows": rows}

    table = category_table(
        pool(judged("a/vq/results.jsonl", 0.5, 1, 0.75), judged("b/soft.jsonl", 0.75, 0, 0.375)), "accuracy"
    )
    assert table is not None
    assert table.rows == [
        {"category": "overall", "count": 4, "vq": 75, "soft": 37.5},
        {"category": "counting", "count": 4, "vq": 50, "soft": 75},
        {"category": "colors", "count": 4, "vq": 100, "soft": 0},
    ]
    assert [line.count("**") for line in table.markdown().splitlines()[2:]] == [2, 2, 2]
    assert "**100**" in table.markdown()
