"""Folder protocol: two picture sets, whoever made them, against each other; no model is needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractors import extractor_info
from softdecode.evaluation.image_sets import FolderSet, ImageSet
from softdecode.evaluation.measuring import Harvest, Measuring, set_features
from softdecode.evaluation.metrics import FeatureStatistics, compare_sets
from softdecode.evaluation.reference_features import ReferenceFeatures


@dataclass(frozen=True, kw_only=True)
class FolderRow:
    """One set's, or one category's, result.

    Attributes:
        name: `overall`, or the category.
        count, reference_count: pictures on both sides.
        frechet, kernel, kernel_std: between the sets.
        psnr, ssim, lpips: means over pairs; None where pictures are not paired, or LPIPS was not asked for.
    """

    name: str
    count: int
    reference_count: int
    frechet: float
    kernel: float
    kernel_std: float
    psnr: float | None
    ssim: float | None
    lpips: float | None


@torch.no_grad()
def evaluate_folders(
    images: ImageSet,
    references: ImageSet,
    measuring: Measuring,
    *,
    reference_digest: str | None = None,
    paired: bool = False,
    categories: bool = False,
    cache: ReferenceFeatures | None = None,
) -> list[FolderRow]:
    """Compare two picture sets.

    Args:
        images: what is measured.
        references: with what.
        measuring: extractor, batch size, processes; see `Measuring`.
        reference_digest: `references.digest()`; needed where there is a cache.
        paired: take PSNR, SSIM and LPIPS, too, of pictures of one name (of one place, in .npz files).
        categories: a row for each first folder of the names, too.
        cache: where features of references are looked up, and left.

    Returns:
        The row `overall`, then the categories by name; nothing on processes other than rank 0.

    Raises:
        SoftDecodeError: pictures that should be paired are not, or differ in size, or a set is too small.
    """
    originals = _paired(images, references) if paired else None
    places = _categories(images, references) if categories else {}
    reference_features = _reference_features(references, measuring, reference_digest, cache)
    harvest = Harvest()
    starts = measuring.processes.share(len(images), measuring.batch_size)
    for start in starts:
        part = slice(start, min(start + measuring.batch_size, len(images)))
        harvest.take(images[part], None if originals is None else originals[part], measuring)
        if measuring.on_progress is not None:
            stop = min(starts.stop, len(images))
            measuring.on_progress("pictures", part.stop - starts.start, stop - starts.start)
    joined = Harvest.joined(measuring.processes.gather(harvest))
    if not measuring.processes.main:
        return []
    features = torch.cat(joined.features)
    everything = range(len(images)), range(len(references))
    statistics = published_statistics(references, measuring)
    rows = [_row("overall", joined, features, reference_features, *everything, statistics)]
    rows += [_row(name, joined, features, reference_features, *both) for name, both in places.items()]
    return rows


def published_statistics(references: ImageSet, measuring: Measuring) -> FeatureStatistics | None:
    """Those of the whole set that a reference file is a part of, if they are of the features that are measured."""
    if isinstance(references, FolderSet) or not extractor_info(measuring.extractor).is_fid:
        return None
    return references.statistics


def _row(
    name: str,
    harvest: Harvest,
    features: Tensor,
    references: Tensor,
    own: Sequence[int],
    other: Sequence[int],
    statistics: FeatureStatistics | None = None,
) -> FolderRow:
    try:
        distance = compare_sets(features[list(own)], references[list(other)], statistics)
    except SoftDecodeError as error:
        raise SoftDecodeError(f"{name}: {error}") from error
    return FolderRow(
        name=name,
        count=len(own),
        reference_count=len(other),
        frechet=distance.frechet,
        kernel=distance.kernel,
        kernel_std=distance.kernel_std,
        psnr=harvest.mean("psnr", own),
        ssim=harvest.mean("ssim", own),
        lpips=harvest.mean("lpips", own),
    )


def _reference_features(
    references: ImageSet, measuring: Measuring, digest: str | None, cache: ReferenceFeatures | None
) -> Tensor:
    """Features of the references, from the cache where they are there (on rank 0; elsewhere nothing of use)."""
    processes = measuring.processes
    found, path = None, None
    if cache is not None and processes.main:
        if digest is None:
            raise SoftDecodeError("a cache needs the digest of the references")
        path = cache.path(digest, references.size, extractor_info(measuring.extractor))
        found = cache.load(path)
    if processes.from_main(found is not None):
        return torch.empty(0) if found is None else found
    gathered = processes.gather(set_features(references, measuring))
    if not processes.main:
        return torch.empty(0)
    features = torch.cat([batch for part in gathered for batch in part])
    if cache is not None and path is not None:
        cache.save(path, features)
    return features


def _paired(images: ImageSet, references: ImageSet) -> ImageSet:
    """The references in the order of the pictures that they belong to."""
    if images.size != references.size:
        raise SoftDecodeError(
            f"pictures of {images.origin} are {images.size[1]}×{images.size[0]} pixels, those of {references.origin} "
            f"{references.size[1]}×{references.size[0]}; pairs need one size, say which with --resize"
        )
    if isinstance(images, FolderSet) and isinstance(references, FolderSet):
        _check_same_names(images, references)
        return references.subset(images.names)
    if isinstance(images, FolderSet) or isinstance(references, FolderSet):
        raise SoftDecodeError("pictures of a folder pair by name, those of an .npz file by place; give two of a kind")
    if len(images) != len(references):
        raise SoftDecodeError(f"{images.origin} holds {len(images)} pictures, {references.origin} {len(references)}")
    return references


def _check_same_names(images: FolderSet, references: FolderSet) -> None:
    for one, other in ((images, references), (references, images)):
        lonely = sorted(set(one.names) - set(other.names))
        if lonely:
            raise SoftDecodeError(
                f"{len(lonely)} pictures of {one.origin} have no partner in {other.origin}, such as {lonely[0]}"
            )


def _categories(images: ImageSet, references: ImageSet) -> dict[str, tuple[list[int], list[int]]]:
    """Places of both sets' pictures by category."""
    if not (isinstance(images, FolderSet) and isinstance(references, FolderSet)):
        raise SoftDecodeError("categories are folders; .npz files have none")
    own, other = _by_folder(images), _by_folder(references)
    if unknown := sorted(own.keys() - other.keys()):
        raise SoftDecodeError(f"{references.origin} has no category {', '.join(unknown)}, {images.origin} has")
    return {name: (own[name], other[name]) for name in sorted(own)}


def _by_folder(pictures: FolderSet) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(pictures.names):
        category, slash, _ = name.partition("/")
        if not slash:
            raise SoftDecodeError(f"{pictures.origin}: {name} is in no category's folder")
        places.setdefault(category, []).append(place)
    return places
