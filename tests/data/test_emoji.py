"""Emoji data: families, the split by their hash, names, and packages that are checked."""

import base64
import hashlib
import io
import json
import subprocess
import tarfile

import pytest
import torch
from PIL import Image

from softdecode.data import emoji as module
from softdecode.data import emoji_packages
from softdecode.data.emoji import (
    STYLES,
    TEST_PERCENT,
    TONES,
    Emoji,
    EmojiData,
    _canonical,
    family_of,
    load_emoji,
    prepare_emoji,
    split_of,
)
from softdecode.data.emoji_packages import PACKAGES, Package, fetch_packages
from softdecode.errors import SoftDecodeError
from softdecode.files import tensor_sha256, write_json, write_tensors

# --- families -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "family"),
    [
        (["1F44B", "1F44B-1F3FB", "1F44B-1F3FF"], "1F44B"),  # waving hand, light, dark
        (["1F6B6", "1F6B6-200D-2640-FE0F", "1F6B6-1F3FD-200D-2642-FE0F-200D-27A1-FE0F"], "1F6B6"),  # walking
        (["1F9D1-200D-1F527", "1F468-200D-1F527", "1F469-1F3FE-200D-1F527"], "1F9D1-1F527"),  # mechanics
        (["1F468", "1F469", "1F9D1", "1F9D1-1F3FB"], "1F9D1"),  # man, woman, person
        (["1F466", "1F467", "1F9D2-1F3FC"], "1F9D2"),  # boy, girl, child
        (
            ["1F468-200D-2764-FE0F-200D-1F468", "1F469-1F3FB-200D-2764-FE0F-200D-1F469-1F3FF"],
            "1F9D1-2764-1F9D1",
        ),
        (["2764", "2764-FE0F"], "2764"),  # red heart
        (["1F1EF-1F1F5"], "1F1EF-1F1F5"),  # Japan
        (["1f34e"], "1F34E"),  # red apple
    ],
)
def test_variants_of_an_emoji_are_one_family(codes, family):
    assert {family_of(code) for code in codes} == {family}


@pytest.mark.parametrize("code", ["2640", "2642", "27A1", *TONES])
def test_signs_that_are_emoji_themselves_are_families(code):
    assert family_of(code) == code


def test_different_emoji_are_different_families():
    codes = ["1F34E", "1F34F", "1F9D1-200D-1F527", "1F9D1-200D-1F52C", "1F1EF-1F1F5", "1F1E9-1F1EA", "1F9D1", "1F9D2"]
    assert len({family_of(code) for code in codes}) == len(codes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1F930", "1FAC4"),  # pregnant woman (test), pregnant person (train)
        ("1F934", "1F478"),  # prince (test), princess (train)
        ("1F491", "1F468-200D-2764-FE0F-200D-1F468"),  # couple with heart: of unsaid gender, two men
    ],
)
def test_genders_with_code_points_of_their_own_are_one_family(first, second):
    assert family_of(first) == family_of(second)


# --- split --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "split"),
    [
        ("1F34E", "train"),
        ("1F44B", "train"),
        ("1F9D1", "train"),
        ("1F600", "test"),
        ("1F1EF-1F1F5", "train"),
        ("1F471", "test"),
        ("1F934", "test"),
        ("1F930", "test"),
        ("1F619", "test"),
        ("1F5DD", "test"),
    ],
)
def test_the_split_stays_what_it_is(family, split):
    """Trained models have seen these splits: another rule would train on what they are tested on."""
    assert split_of(family) == split
    place = int(hashlib.sha256(family.encode()).hexdigest()[:16], 16) % 100
    assert (place < 10) == (split == "test")


def test_the_share_of_test_families():
    families = [f"{number:X}" for number in range(0x1F300, 0x1F300 + 4000)]
    share = sum(split_of(family) == "test" for family in families) / len(families)
    # Four standard deviations of 4000 draws at 0.1 are 0.019.
    assert TEST_PERCENT == 10
    assert share == pytest.approx(0.1, abs=0.019)


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "canonical"),
    [
        ("00A9-FE0F", "A9"),
        ("0023-fe0f-20e3", "23-20E3"),
        ("1f468-200d-1f527", "1F468-200D-1F527"),
        ("1F34E", "1F34E"),
    ],
)
def test_vendors_file_names_agree(code, canonical):
    assert _canonical(code) == canonical


# --- packages -----------------------------------------------------------------------------------------------------


def png(colour, size):
    buffer = io.BytesIO()
    Image.new("RGBA", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


ENTRIES = [
    {
        "hexcode": "1F44B",
        "label": "Waving hand",
        "tags": ["hello", "wave"],
        "skins": [{"hexcode": "1F44B-1F3FB", "label": "waving hand: light skin tone"}],
    },
    {"hexcode": "1F34E", "label": "red apple", "tags": ["fruit"]},
    {"hexcode": "00A9", "label": "copyright"},
    {
        "hexcode": "1F91D",
        "label": "handshake",
        "skins": [{"hexcode": "1F91D-1F3FF", "label": "handshake"}],
    },
]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder with small packages of the pinned ones' names and layouts; their hashes are put in their places."""
    contents = {
        "emojibase-data": {"package/en/compact.json": json.dumps(ENTRIES).encode()},
        "emoji-datasource-google": {
            "package/img/google/64/1f44b.png": png((255, 0, 0, 255), (64, 64)),
            "package/img/google/64/1f34e.png": png((0, 255, 0, 128), (64, 64)),
            "package/img/google/64/1f4a9.png": png((0, 0, 0, 255), (64, 64)),  # without a name
            "package/img/google/32/00a9.png": png((0, 0, 0, 255), (32, 32)),  # of another size
        },
        "emoji-datasource-twitter": {"package/img/twitter/64/00a9-fe0f.png": png((0, 0, 255, 255), (64, 64))},
        "@lobehub/fluent-emoji-3d": {
            "package/assets/1f44b-1f3fb.webp": png((9, 9, 9, 255), (256, 256)),
            "package/assets/1f91d-1f3ff.webp": png((7, 7, 7, 255), (256, 256)),
        },
    }
    pinned = {}
    for package in PACKAGES:
        with tarfile.open(tmp_path / package.filename, "w:gz") as archive:
            for name, content in contents[package.name].items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        digest = base64.b64encode(hashlib.sha512((tmp_path / package.filename).read_bytes()).digest()).decode()
        pinned[package.name] = Package(
            name=package.name, version=package.version, licence=package.licence, integrity=digest
        )
    monkeypatch.setattr(emoji_packages, "PACKAGES", tuple(pinned.values()))
    monkeypatch.setattr(module, "PACKAGES", tuple(pinned.values()))
    monkeypatch.setattr(module, "STYLES", {style: pinned[package.name] for style, package in STYLES.items()})
    monkeypatch.setattr(module, "NAMES", pinned["emojibase-data"])
    monkeypatch.setattr(module, "FLUENT", pinned["@lobehub/fluent-emoji-3d"])
    return tmp_path


@pytest.fixture
def _without_npm(monkeypatch):
    monkeypatch.setattr(emoji_packages.shutil, "which", lambda _name: None)
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: pytest.fail("npm was run"))


@pytest.mark.usefixtures("_without_npm")
def test_pictures_and_names_are_brought_together(packages):
    data = load_emoji(packages)
    assert [(emoji.style, emoji.code, emoji.label) for emoji in data.emoji] == [
        ("noto", "1F34E", "red apple"),
        ("noto", "1F44B", "waving hand"),
        ("twemoji", "A9", "copyright"),
        ("fluent", "1F44B-1F3FB", "waving hand light skin tone"),
        ("fluent", "1F91D-1F3FF", "handshake dark skin tone"),  # said once, also where the label leaves it out
    ]
    assert data.emoji[1].keywords == ("hello", "wave")
    assert data.emoji[2].keywords == ()
    assert [emoji.family for emoji in data.emoji] == ["1F34E", "1F44B", "A9", "1F44B", "1F91D"]
    assert all(emoji.split == split_of(emoji.family) for emoji in data.emoji)
    assert data.emoji[0].caption == "noto red apple"
    assert data.images.shape == (5, 3, 64, 64)
    assert data.images.dtype == torch.uint8
    # Composited on white: half transparent green.
    assert data.images[0].flatten(1).unique(dim=1).flatten().tolist() == [127, 255, 127]
    assert data.images[3].unique().tolist() == [9], "256 px are brought to 64"
    assert data.digest == tensor_sha256(data.images)


@pytest.mark.usefixtures("_without_npm")
def test_prepared_data_is_read_again_as_it_is(packages):
    first = load_emoji(packages)
    for package in packages.glob("*.tgz"):
        package.unlink()
    second = load_emoji(packages)
    assert torch.equal(first.images, second.images)
    assert first.emoji == second.emoji
    assert first.digest == second.digest


@pytest.mark.usefixtures("_without_npm")
def test_a_package_that_is_not_the_pinned_one_is_refused(packages):
    path = packages / PACKAGES[1].filename
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(SoftDecodeError, match=r"is not the pinned emoji-datasource-twitter@16\.0\.0"):
        prepare_emoji(packages)
    assert not (packages / "emoji.json").exists()


@pytest.mark.usefixtures("_without_npm")
def test_without_npm_the_command_to_run_is_named(tmp_path):
    with pytest.raises(SoftDecodeError, match=r"npm is not installed; run `npm pack .*emojibase-data@") as caught:
        load_emoji(tmp_path / "data")
    assert all(package.spec in str(caught.value) for package in PACKAGES)
    assert not (tmp_path / "data").exists()


def test_only_missing_packages_are_fetched(packages, monkeypatch):
    calls = []
    kept = (packages / PACKAGES[0].filename).read_bytes()
    (packages / PACKAGES[0].filename).unlink()

    def npm(command, *, cwd, **_options):
        calls.append(command)
        (cwd / PACKAGES[0].filename).write_bytes(kept)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(emoji_packages.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(emoji_packages.subprocess, "run", npm)
    fetch_packages(packages)
    assert calls == [["npm", "pack", "--silent", PACKAGES[0].spec]]


def test_npms_last_word_is_passed_on(tmp_path, monkeypatch):
    def npm(command, **_options):
        return subprocess.CompletedProcess(command, 1, "", "npm warn something\nnpm error network is down\n")

    monkeypatch.setattr(emoji_packages.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(emoji_packages.subprocess, "run", npm)
    with pytest.raises(SoftDecodeError, match=r"could not fetch .*\(npm error network is down\); run `npm pack"):
        fetch_packages(tmp_path)


def test_every_package_is_pinned_by_a_sha512_and_has_a_licence():
    for package in PACKAGES:
        assert len(base64.b64decode(package.integrity, validate=True)) == 64
        assert package.licence
        assert package.filename.endswith(f"-{package.version}.tgz")
    assert [package.filename for package in PACKAGES][2] == "lobehub-fluent-emoji-3d-1.1.0.tgz"


# --- prepared files -----------------------------------------------------------------------------------------------


def write_prepared(folder, count=4, **changes):
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    records = [
        {
            "style": "noto",
            "code": f"{place}",
            "label": f"thing {place}",
            "keywords": ["a"],
            "family": f"{place // 2}",
            "split": "test" if place == 1 else "train",
        }
        for place in range(count)
    ]
    write_tensors(folder / "emoji.safetensors", {"images": images})
    write_json(folder / "emoji.json", {"digest": tensor_sha256(images), "emoji": records, **changes})
    return images


def test_splits_select_pictures_and_records_alike(tmp_path):
    images = write_prepared(tmp_path)
    data = load_emoji(tmp_path)
    assert isinstance(data, EmojiData)
    train, test = data.split("train"), data.split("test")
    assert [emoji.label for emoji in train.emoji] == ["thing 0", "thing 2", "thing 3"]
    assert torch.equal(train.images, images[[0, 2, 3]])
    assert torch.equal(test.images, images[[1]])
    assert len(train) + len(test) == len(data) == 4
    assert train.digest == test.digest == data.digest
    assert data.emoji[0] == Emoji(style="noto", code="0", label="thing 0", keywords=("a",), family="0", split="train")


def test_pictures_that_do_not_match_their_records_are_refused(tmp_path):
    write_prepared(tmp_path, digest="0" * 64)
    with pytest.raises(SoftDecodeError, match=r"does not match .*; delete both and run the command again"):
        load_emoji(tmp_path)
    write_prepared(tmp_path, emoji=[])
    with pytest.raises(SoftDecodeError, match="does not match"):
        load_emoji(tmp_path)


def test_prepared_files_of_another_kind_are_refused(tmp_path):
    write_prepared(tmp_path)
    write_json(tmp_path / "emoji.json", {})
    with pytest.raises(SoftDecodeError):
        load_emoji(tmp_path)


@pytest.mark.usefixtures("_without_npm")
def test_no_family_is_in_two_splits(packages):
    data = load_emoji(packages)
    families = {name: {emoji.family for emoji in data.split(name).emoji} for name in ("train", "test")}
    assert not families["train"] & families["test"]
    assert sum(len(data.split(name)) for name in families) == len(data)
