"""Emoji pictures with captions: the data of the embedded stack.

Three vendors' drawings of the same emoji, composited on white at 64 px, with CLDR names and keywords. The split is
by family (skin tones, genders, directions and vendors of one emoji stay together), fixed by a hash.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from softdecode.data.emoji_packages import FLUENT, NAMES, NOTO, PACKAGES, TWEMOJI, Package, fetch_packages, open_package
from softdecode.errors import SoftDecodeError
from softdecode.files import read_json, read_tensors, tensor_sha256, write_json, write_tensors

Split = Literal["train", "test"]

SIZE = 64
STYLES: dict[str, Package] = {"noto": NOTO, "twemoji": TWEMOJI, "fluent": FLUENT}
TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}
# Genders that have code points of their own: man, woman and person, boy, girl and child, and so on.
_SAME = {
    **dict.fromkeys(("1F468", "1F469"), "1F9D1"),
    **dict.fromkeys(("1F466", "1F467"), "1F9D2"),
    **dict.fromkeys(("1F474", "1F475"), "1F9D3"),
    **dict.fromkeys(("1F934", "1FAC5"), "1F478"),
    **dict.fromkeys(("1F930", "1FAC3"), "1FAC4"),
    "1F936": "1F385",
    "1F57A": "1F483",
}
# Emoji that are the same as a sequence of others: couples and Mx Claus.
_SAME_WHOLE = {
    "1F491": "1F9D1-2764-1F9D1",
    "1F48F": "1F9D1-2764-1F48B-1F9D1",
    **dict.fromkeys(("1F46B", "1F46C", "1F46D"), "1F9D1-1F91D-1F9D1"),
    "1F9D1-1F384": "1F385",
}
TEST_PERCENT = 10  # of the families; a family's place is its hash modulo 100


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One picture: its vendor style, code points, CLDR name and keywords, family and split."""

    style: str
    code: str
    label: str
    keywords: tuple[str, ...]
    family: str
    split: Split

    @property
    def caption(self) -> str:
        """The clean caption, as a person would ask for it: `noto red apple`."""
        return f"{self.style} {self.label}"


@dataclass(frozen=True, kw_only=True)
class EmojiData:
    """Pictures and their records, in one order.

    Attributes:
        images: [M, 3, 64, 64] uint8.
        emoji: M records.
        digest: SHA-256 of the pictures, the identity of the data in result files.
    """

    images: Tensor
    emoji: tuple[Emoji, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.emoji)

    def split(self, name: Split) -> "EmojiData":
        """The records of one split. The digest stays that of the whole data."""
        kept = [i for i, emoji in enumerate(self.emoji) if emoji.split == name]
        return EmojiData(images=self.images[kept], emoji=tuple(self.emoji[i] for i in kept), digest=self.digest)


def family_of(code: str) -> str:
    """The family of an emoji: its code points without skin tone, gender, direction and presentation.

    Man, woman and person with the same tool or hair are one family, and so are all couples of one kind.
    """
    dropped = {*TONES, "FE0F", "200D", "2640", "2642", "27A1"}
    parts = [_SAME.get(part, part) for part in code.upper().split("-") if part not in dropped]
    family = "-".join(parts) or code.upper()
    return _SAME_WHOLE.get(family, family)


def split_of(family: str) -> Split:
    """The split of a family, by its SHA-256 modulo 100: stable for ever, whatever the data set's order or size."""
    place = int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big") % 100
    return "test" if place < TEST_PERCENT else "train"


def load_emoji(folder: Path) -> EmojiData:
    """Load the prepared data from `folder`, preparing it first (fetching npm packages) where it is missing.

    Raises:
        SoftDecodeError: the packages cannot be had, or the prepared files are damaged.
    """
    records_file, images_file = folder / "emoji.json", folder / "emoji.safetensors"
    if not (records_file.is_file() and images_file.is_file()):
        prepare_emoji(folder)
    content = read_json(records_file)
    tensors, _ = read_tensors(images_file)
    try:
        images, digest = tensors["images"], content["digest"]
        emoji = tuple(Emoji(**{**record, "keywords": tuple(record["keywords"])}) for record in content["emoji"])
    except (KeyError, TypeError) as error:
        raise SoftDecodeError(f"{records_file} is not whole ({error}); delete it and run the command again") from error
    if len(images) != len(emoji) or tensor_sha256(images) != digest:
        raise SoftDecodeError(f"{images_file} does not match {records_file}; delete both and run the command again")
    return EmojiData(images=images, emoji=emoji, digest=digest)


def prepare_emoji(folder: Path) -> None:
    """Fetch the packages into `folder` and write `emoji.safetensors` and `emoji.json` beside them."""
    fetch_packages(folder)
    names = _read_names(folder)
    emoji: list[Emoji] = []
    images: list[Tensor] = []
    for style, package in STYLES.items():
        for code, picture in _read_pictures(folder, package):
            if code not in names:
                continue
            label, keywords = names[code]
            family = family_of(code)
            emoji.append(
                Emoji(style=style, code=code, label=label, keywords=keywords, family=family, split=split_of(family))
            )
            images.append(picture)
    stacked = torch.stack(images)
    write_tensors(folder / "emoji.safetensors", {"images": stacked})
    content = {
        "packages": [package.spec for package in PACKAGES],
        "digest": tensor_sha256(stacked),
        "emoji": [asdict(record) for record in emoji],
    }
    write_json(folder / "emoji.json", content)


def _canonical(code: str) -> str:
    """Code points without presentation selectors and leading zeros, by which vendors' file names agree."""
    return "-".join(part.lstrip("0").upper() for part in code.split("-") if part.upper() != "FE0F")


def _read_names(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """CLDR label and keywords of every emoji and skin-tone variant, by canonical code."""
    with open_package(folder, NAMES) as archive:
        file = archive.extractfile("package/en/compact.json")
        assert file is not None, "the pinned package has this file"
        entries = json.load(file)
    names = {}
    for entry in entries:
        keywords = tuple(entry.get("tags", ()))
        for variant in (entry, *entry.get("skins", ())):
            label = variant["label"].lower().replace(":", "").replace(",", "")
            tones = [TONES[part] for part in variant["hexcode"].split("-") if part in TONES]
            absent = [tone for tone in dict.fromkeys(tones) if tone not in label]
            names[_canonical(variant["hexcode"])] = (" ".join([label, *absent]), keywords)
    return names


def _read_pictures(folder: Path, package: Package) -> list[tuple[str, Tensor]]:
    """Every emoji picture of a package: canonical code and [3, 64, 64] uint8, sorted by code, without doubles."""
    vendor = package.name.rsplit("-", 1)[-1]
    prefix = f"package/img/{vendor}/64/" if package is not FLUENT else "package/assets/"
    pictures: dict[str, Tensor] = {}
    with open_package(folder, package) as archive:
        for member in archive:
            if not (member.isfile() and member.name.startswith(prefix)):
                continue
            file = archive.extractfile(member)
            assert file is not None, "a regular file"
            picture = _on_white(Image.open(BytesIO(file.read())))
            pictures.setdefault(_canonical(Path(member.name).stem), picture)
    return sorted(pictures.items())


def _on_white(image: Image.Image) -> Tensor:
    """Composite on white and bring to 64 px: [3, 64, 64] uint8."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    rgb = Image.alpha_composite(white, rgba).convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return pixels.view(SIZE, SIZE, 3).permute(2, 0, 1).contiguous()
