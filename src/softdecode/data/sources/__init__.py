"""Where training pictures come from: image folders, webdataset tars, Hugging Face datasets."""

from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.memory import Pictures, load_pictures, some_pictures
from softdecode.data.sources.open import open_source
from softdecode.data.sources.options import SourceOptions
from softdecode.data.sources.picture import PictureTransform, Sample
from softdecode.data.sources.source import PictureSource
from softdecode.data.sources.stream import PictureStream

__all__ = [
    "CorruptPictures",
    "PictureSource",
    "PictureStream",
    "PictureTransform",
    "Pictures",
    "Sample",
    "SourceOptions",
    "load_pictures",
    "open_source",
    "some_pictures",
]
