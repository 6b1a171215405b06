"""MJHQ-30K's layout (playgroundai/MJHQ-30K): a folder for each category, and meta_data.json."""

from pathlib import Path

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.image_sets import FolderSet
from softdecode.files import read_json

_METADATA = "meta_data.json"
_PICTURES = "mjhq30k_imgs"


def mjhq_pictures(folder: Path) -> Path:
    """Where the categories' folders are: `mjhq30k_imgs`, where the archive was unpacked so, else the folder itself."""
    return folder / _PICTURES if (folder / _PICTURES).is_dir() else folder


def check_mjhq(images: FolderSet, references: FolderSet, metadata: Path | None = None) -> str | None:
    """Refuse pictures that are not MJHQ's: each must have its reference, in the same category.

    Args:
        images: what is measured, CATEGORY/ID; a part of the benchmark is enough.
        references: MJHQ's pictures.
        metadata: meta_data.json; where None, the one beside the references is taken if it is there.

    Returns:
        Where the metadata is, or None: then categories are taken as the folders say.

    Raises:
        SoftDecodeError: an unknown picture, or one in another category than the metadata says.
    """
    unknown = sorted(set(images.names) - set(references.names))
    if unknown:
        raise SoftDecodeError(f"{images.origin}: {unknown[0]} and {len(unknown) - 1} others are no pictures of MJHQ")
    if metadata is None:
        near = [folder / _METADATA for folder in (references.origin, references.origin.parent)]
        metadata = next((path for path in near if path.is_file()), None)
        if metadata is None:
            return None
    entries = read_json(metadata)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise SoftDecodeError(f"{metadata} is not MJHQ's meta_data.json; expected prompt and category of each id")
    for name in references.names:
        category, _, identity = name.partition("/")
        said = entries.get(identity, {}).get("category")
        if said != category:
            raise SoftDecodeError(f"{references.origin}: {name} is of category {said!r}, says {metadata}")
    return str(metadata)
