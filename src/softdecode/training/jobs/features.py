"""The features that a decoder's job trains on, from a cache that all its processes fill together or encoded live; and
those that its previews show."""

from pathlib import Path
from typing import Any

from softdecode.data.picture_sets import PictureSet
from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.memory import Pictures
from softdecode.data.sources.source import PictureSource
from softdecode.data.sources.stream import PictureStream
from softdecode.errors import SoftDecodeError
from softdecode.progress import Progress, progress_bars
from softdecode.seeds import generator_for
from softdecode.training.augment import Augmentation
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.feature_cache import FeatureCache, build_cache
from softdecode.training.features import Features
from softdecode.training.jobs.job import Job
from softdecode.training.live_features import StreamedFeatures


def cached_features(
    job: Job, root: Path, pictures: PictureSet, encoder: FeatureEncoder, *, augmentation: Augmentation, views: int
) -> FeatureCache:
    """`build_cache` with the seed of a job, every process its share of the work."""
    processes = job.processes

    def build(on_progress: Progress | None = None) -> FeatureCache | None:
        return build_cache(
            root.expanduser(),
            pictures,
            encoder,
            augmentation=augmentation,
            views=views,
            seed=job.loop.seed,
            process=processes.process_index,
            processes=processes.num_processes,
            on_progress=on_progress,
        )

    with progress_bars(quiet=not processes.is_main_process) as bars:
        cache = build(bars)
    processes.wait_for_everyone()
    cache = cache or build()
    if cache is None:
        raise SoftDecodeError(
            f"parts that other processes encoded are not in {root}; --cache (of the embedded jobs: --data) must be a "
            "folder that all processes see"
        )
    return cache


def live_features(
    job: Job, source: PictureSource, corrupt: CorruptPictures, encoder: FeatureEncoder, augmentation: Augmentation
) -> StreamedFeatures:
    """Pictures streamed from a source and encoded in every step, each process its own."""
    processes = job.processes

    def open_stream(state: dict[str, Any] | None) -> PictureStream:
        place = {"rank": processes.process_index, "world": processes.num_processes}
        return source.stream(corrupt, seed=job.loop.seed, **place, state=state)

    return StreamedFeatures(open_stream, encoder, augmentation)


def preview_features(pictures: Pictures | None, encoder: FeatureEncoder) -> Features | None:
    """Features of the pictures of previews, where there are such."""
    if pictures is None:
        return None
    generators = [generator_for("preview", key) for key in pictures.keys]
    return encoder.encode(pictures.images, pictures.captions, generators)
