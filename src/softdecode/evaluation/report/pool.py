"""Rows of results that were measured under one protocol, and may therefore share a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.protocol import protocol_key
from softdecode.evaluation.report.entries import BASELINE, CEILING, OVERALL, Entry, labelled, place_of, same_measurement
from softdecode.evaluation.report.inputs import Source


@dataclass(kw_only=True)
class Pool:
    """Results of one protocol.

    Attributes:
        key: what they agree in: see `pool_key`.
        sources: the results, in the order of the inputs.
        entries: their rows; rows that several results share appear once.
        warnings: what a reader must know of them.
    """

    key: dict[str, object]
    sources: list[Source]
    entries: list[Entry] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The first result's; the others' agree with it but for seeds and decoders."""
        return self.sources[0].protocol

    @property
    def task(self) -> str:
        """reconstruction, generation, or what the result says."""
        return str(self.protocol.get("task", self.sources[0].command.removeprefix("evaluate ")))

    @property
    def overall(self) -> list[Entry]:
        """The rows about all pictures."""
        return [entry for entry in self.entries if entry.category == OVERALL]

    def at_steps(self, steps: int | None) -> list[Entry]:
        """One row of each decoder: with `steps` denoising steps, or with the most there are where None."""
        best: dict[str, Entry] = {}
        for entry in self.overall:
            most = best.get(entry.label)
            wanted = entry.steps is None or steps in (None, entry.steps)
            if wanted and (most is None or (entry.steps or 0) > (most.steps or 0)):
                best[entry.label] = entry
        return list(best.values())

    def left_out(self, steps: int | None) -> list[str]:
        """Labels of the decoders that were not measured with `steps`."""
        shown = {entry.label for entry in self.at_steps(steps)}
        return [label for label in dict.fromkeys(entry.label for entry in self.overall) if label not in shown]


def make_pools(sources: Sequence[Source], *, one_table: bool = False) -> list[Pool]:
    """Sort results by what they agree in.

    Args:
        sources: of the kind "pictures" or "geneval".
        one_table: refuse results of one command that may not share a table, rather than to make two.

    Raises:
        SoftDecodeError: `one_table`, and there are such.
    """
    pools: list[Pool] = []
    for source in sources:
        key = pool_key(source)
        pool = next((pool for pool in pools if pool.key == key), None)
        if pool is not None:
            pool.sources.append(source)
            continue
        for other in pools:
            if one_table and other.sources[0].command == source.command:
                raise SoftDecodeError(
                    f"{other.sources[0].path} and {source.path} cannot share a table: they differ in "
                    f"{'; '.join(differences(other.key, key))}; leave out --one-table for a table of each"
                )
        pools.append(Pool(key=key, sources=[source]))
    for pool in pools:
        _fill(pool)
    return pools


def pool_key(source: Source) -> dict[str, object]:
    """What two results must agree in to share a table: the protocol, and what the decoders were given.

    Decoders of another codebook, or of tokens drawn by another VLM or in another way, have another VQ decoder's row to
    be held against. What a result does not say is left out.
    """
    protocol = source.protocol
    key = protocol_key(source.content) | {name: protocol.get(name) for name in ("codebook_sha256", "sampling")}
    models = protocol.get("models")
    if protocol.get("task") == "generation" and isinstance(models, Mapping):
        key |= {name: models.get(name) for name in ("model", "quantize_vlm")}
    return {name: value for name, value in key.items() if value is not None}


def differences(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """The fields in which two keys differ, each as "name: one value against another"."""
    names = dict.fromkeys([*first, *second])
    return [
        f"{name}: {first.get(name)!r} against {second.get(name)!r}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def _fill(pool: Pool) -> None:
    for source in pool.sources:
        decoders = source.protocol.get("decoders", {})
        for row in source.rows:
            entry = Entry(source=source, row=row, label=row["name"], settings=decoders.get(row["name"]))
            if not any(same_measurement(entry, other) for other in pool.entries):
                pool.entries.append(entry)
    pool.entries = labelled(sorted(pool.entries, key=place_of))
    pool.entries = [_with_ratio(entry, pool) for entry in pool.entries]
    present = {entry.name for entry in pool.overall}
    measured = [entry for entry in pool.overall if entry.row.get("frechet") is not None]
    if BASELINE in present and any(entry.row["frechet_over_vq"] is None for entry in measured):
        pool.warnings.append("some rows have no ratio over VQ, for the table has several VQ rows and none is theirs")
    needed = {"reconstruction": (CEILING, BASELINE, "hard"), "generation": (BASELINE, "hard")}
    for name in needed.get(pool.task, (BASELINE,)):
        if name not in present:
            pool.warnings.append(f"there is no row `{name}`; measure it with the others")


def _with_ratio(entry: Entry, pool: Pool) -> Entry:
    """Take the ratio to the VQ decoder anew: to the same input's, else to the only one in the table."""
    others = [other for other in pool.entries if other.name == BASELINE and other.category == entry.category]
    own = [
        row
        for row in entry.source.rows
        if row["name"] == BASELINE and (row.get("category") or OVERALL) == entry.category
    ]
    usual = own or [other.row for other in others]
    ratio = None
    if len(usual) == 1 and entry.row.get("frechet") is not None and usual[0].get("frechet"):
        ratio = entry.row["frechet"] / usual[0]["frechet"]
    return replace(entry, row={**entry.row, "frechet_over_vq": ratio})
