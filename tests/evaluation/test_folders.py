"""The folder protocol: pairs by name, categories, and what is kept of the references."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractors import ExtractorInfo
from softdecode.images import save_image, to_pil

pytest.importorskip("softdecode.evaluation.torchmetrics")

from softdecode.evaluation.folders import evaluate_folders
from softdecode.evaluation.image_sets import open_image_set
from softdecode.evaluation.measuring import Measuring
from softdecode.evaluation.metrics import compare_sets
from softdecode.evaluation.mjhq import check_mjhq, mjhq_pictures
from softdecode.evaluation.pairs import psnr
from softdecode.evaluation.reference_features import ReferenceFeatures

NAMES = [f"{category}/{number}" for category in ("animals", "plants") for number in range(4)]


class Averages(nn.Module):
    """Features: mean colours of the four quarters."""

    info = ExtractorInfo(name="averages", weights_sha256="0", resizer="none", width=12, is_fid=False)

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (2, 8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folders(pixels, tmp_path):
    for side, pictures in zip(("images", "references"), pixels, strict=True):
        for name, picture in zip(NAMES, to_pil(pictures), strict=True):
            save_image(picture, tmp_path / side / f"{name}.png")
    return tmp_path / "images", tmp_path / "references"


@pytest.fixture
def sets(folders):
    return [open_image_set(folder) for folder in folders]


def measuring(**options):
    return Measuring(**{"extractor": Averages(), "batch_size": 3, **options})


def test_rows_are_those_of_the_metrics(sets, pixels):
    rows = evaluate_folders(*sets, measuring(), paired=True, categories=True)
    assert [(row.name, row.count, row.reference_count) for row in rows] == [
        ("overall", 8, 8),
        ("animals", 4, 4),
        ("plants", 4, 4),
    ]
    features = [Averages()(side) for side in pixels]
    values = psnr(pixels[0], pixels[1])
    for row, part in zip(rows, (slice(0, 8), slice(0, 4), slice(4, 8)), strict=True):
        expected = compare_sets(features[0][part], features[1][part])
        assert (row.frechet, row.kernel) == pytest.approx((expected.frechet, expected.kernel), rel=1e-6)
        assert row.psnr == pytest.approx(values[part].mean().item())
        assert row.lpips is None
    assert all(row.psnr is None for row in evaluate_folders(*sets, measuring()))


def test_pairs_go_by_name(folders):
    """A picture file that changes its format keeps its name, and its partner."""
    images, references = folders
    shutil.rmtree(references)
    for name in NAMES:
        (references / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / f"{name}.png", references / f"{name}.png")
    (row,) = evaluate_folders(open_image_set(images), open_image_set(references), measuring(), paired=True)
    assert row.psnr == 100
    assert row.ssim == pytest.approx(1)
    assert row.frechet == pytest.approx(0, abs=1e-6 * 255**2)


def test_pairs_that_are_none_are_refused(folders, tmp_path):
    images, references = folders
    (references / "plants" / "3.png").unlink()
    with pytest.raises(SoftDecodeError, match=r"1 pictures of .*images have no partner .*such as plants/3"):
        evaluate_folders(open_image_set(images), open_image_set(references), measuring(), paired=True)
    small = open_image_set(references, resize=8)
    with pytest.raises(SoftDecodeError, match=r"are 16×16 pixels, those of .* 8×8; pairs need one size"):
        evaluate_folders(open_image_set(images), small, measuring(), paired=True)


def test_a_part_of_the_categories_is_enough_but_none_may_be_unknown(folders):
    images, references = folders
    whole = evaluate_folders(open_image_set(images), open_image_set(references), measuring(), categories=True)
    shutil.rmtree(images / "plants")
    part = evaluate_folders(open_image_set(images), open_image_set(references), measuring(), categories=True)
    assert [row.name for row in part] == ["overall", "animals"]
    assert part[1] == next(row for row in whole if row.name == "animals")
    shutil.copytree(references / "plants", images / "stones")
    with pytest.raises(SoftDecodeError, match="has no category stones"):
        evaluate_folders(open_image_set(images), open_image_set(references), measuring(), categories=True)
    shutil.copy(images / "animals" / "1.png", images / "loose.png")
    with pytest.raises(SoftDecodeError, match="loose is in no category's folder"):
        evaluate_folders(open_image_set(images), open_image_set(references), measuring(), categories=True)


def test_a_category_of_one_picture_is_named(folders):
    for number in (1, 2, 3):
        (folders[0] / "plants" / f"{number}.png").unlink()
    with pytest.raises(SoftDecodeError, match="plants: an image set has 1 images"):
        evaluate_folders(*(open_image_set(folder) for folder in folders), measuring(), categories=True)


def test_features_of_references_are_taken_once(sets, folders, tmp_path):
    cache = ReferenceFeatures(tmp_path / "cache")
    seen, results = [], []
    for _ in range(2):
        run = measuring()
        results.append(evaluate_folders(*sets, run, reference_digest=sets[1].digest(), cache=cache))
        seen.append(run.extractor.seen)
    assert seen == [16, 8]
    assert results[0] == results[1]
    # Other contents are other references.
    shutil.copy(folders[0] / "plants" / "0.png", folders[1] / "plants" / "0.png")
    run, changed = measuring(), open_image_set(folders[1])
    assert evaluate_folders(sets[0], changed, run, reference_digest=changed.digest(), cache=cache) != results[0]
    assert run.extractor.seen == 16


def test_mjhq_pictures_must_be_known_and_in_their_category(folders, sets, tmp_path):
    images, references = sets
    assert check_mjhq(images, references) is None
    path = tmp_path / "references" / "meta_data.json"
    path.write_text(json.dumps({str(number): {"category": "animals", "prompt": "x"} for number in range(4)}))
    with pytest.raises(SoftDecodeError, match="plants/0 is of category 'animals'"):
        check_mjhq(images, references)
    (folders[1] / "plants" / "3.png").unlink()
    with pytest.raises(SoftDecodeError, match="plants/3 and 0 others are no pictures of MJHQ"):
        check_mjhq(images, open_image_set(folders[1]))
    assert mjhq_pictures(folders[0]) == folders[0]
    (folders[0] / "mjhq30k_imgs").mkdir()
    assert mjhq_pictures(folders[0]) == folders[0] / "mjhq30k_imgs"


SCRIPT = """
import importlib.util, json, sys
from dataclasses import asdict
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_folders", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
from softdecode.evaluation.processes import joined_processes

images, references = (tests.open_image_set(Path(folder)) for folder in sys.argv[2:4])
with joined_processes() as processes:
    run = tests.measuring(processes=processes)
    cache = tests.ReferenceFeatures(Path(sys.argv[4]))
    for _ in range(2):
        digest = references.digest() if processes.main else None
        options = {"paired": True, "categories": True, "reference_digest": digest, "cache": cache}
        rows = tests.evaluate_folders(images, references, run, **options)
    seen = processes.gather(run.extractor.seen)
    if processes.main:
        print(json.dumps({"rows": [asdict(row) for row in rows], "seen": seen}))
"""


def test_two_processes_give_what_one_gives(sets, folders, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [tmp_path / "script.py", __file__, *folders, tmp_path / "cache"]
    done = subprocess.run([*launcher, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = evaluate_folders(*sets, measuring(), paired=True, categories=True)
    for row, other in zip(found["rows"], expected, strict=True):
        assert (row["name"], row["count"]) == (other.name, other.count)
        for name in ("frechet", "kernel", "kernel_std", "psnr", "ssim"):
            assert row[name] == pytest.approx(getattr(other, name), rel=1e-6)
    # Batches of 3, 3 and 2: two for the first process. References the first time only, pictures both times.
    assert found["seen"] == [6 + 6 + 6, 2 + 2 + 2]


def test_published_statistics_stand_for_the_whole_set_where_the_network_is_theirs(folders, tmp_path):
    """As in ADM's reference files, whose pictures are a few of the set that mu and sigma are of."""
    images, references = (open_image_set(folder) for folder in folders)
    info = ExtractorInfo(name="averages", weights_sha256="0", resizer="none", width=12, is_fid=True)
    network = measuring().extractor
    whole = network(references[0 : len(references)]).double().numpy()
    pixels = references[0:2].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "r.npz", arr_0=pixels, mu=whole.mean(0), sigma=np.cov(whole, rowvar=False))
    reference = open_image_set(tmp_path / "r.npz")
    (plain,) = evaluate_folders(images, references, measuring())
    (other,) = evaluate_folders(images, reference, measuring())
    assert other.frechet != pytest.approx(plain.frechet, rel=0.01), "not this network's: the two pictures count"
    network.info = info
    run = Measuring(extractor=network, batch_size=4)
    (found,) = evaluate_folders(images, reference, run)
    assert found.frechet == pytest.approx(plain.frechet, rel=1e-6)
    assert found.reference_count == 2
