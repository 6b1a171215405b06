"""Table 1: how sure the VLM, the encoder and the calibrated encoder are of their tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.calibration_report import table1
from softdecode.evaluation.report.caption import inputs_of
from softdecode.evaluation.report.inputs import Source
from softdecode.evaluation.report.table import ReportTable

_STATED = "{} was fitted to stated statistics, so that Table 1 has no VLM to show"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted calibration, from the file itself or from the record of the command that fitted it.

    Attributes:
        source: where it stands.
        kappa, epsilon: what was fitted.
        rows: of Table 1.
        calibration: with the profiles, for the plot; None where only the record is there.
    """

    source: Source
    kappa: float
    epsilon: float
    rows: Sequence[dict[str, Any]]
    calibration: Calibration | None


def read_fits(sources: Iterable[Source]) -> tuple[list[Fit], list[str]]:
    """The fitted calibrations among the inputs, and warnings of those without statistics.

    `calibrate` writes the file and a record of it: where both are there, they count once.

    Raises:
        SoftDecodeError: a file is not a whole calibration.
    """
    fits, records, warnings = [], [], []
    for source in sources:
        if source.content.get("command") == "calibrate":
            if "reached" in source.content:
                warnings.append(_STATED.format(source.path))
            else:
                records.append(_from_record(source))
            continue
        calibration = Calibration.load(source.path)
        if calibration.target is None or calibration.raw is None or calibration.reached is None:
            by_hand = "{} was set by hand and has no statistics to show"
            warnings.append((by_hand if calibration.reached is None else _STATED).format(source.path))
            continue
        rows = table1(calibration)
        kappa, epsilon = calibration.kappa, calibration.epsilon
        fits.append(Fit(source=source, kappa=kappa, epsilon=epsilon, rows=rows, calibration=calibration))
    fits += [record for record in records if not any(record.rows == fit.rows for fit in fits)]
    return sorted(fits, key=lambda fit: fit.source.number), warnings


def _from_record(source: Source) -> Fit:
    try:
        fitted, rows = source.content["calibration"], source.content["table1"]
        kappa, epsilon = fitted["kappa"], fitted["epsilon"]
        if not rows or not all("statistic" in row for row in rows):
            raise KeyError("statistic")
    except (KeyError, TypeError) as error:
        raise SoftDecodeError(f"{source.path} is not a whole result of `calibrate` ({error}); fit it again") from error
    return Fit(source=source, kappa=kappa, epsilon=epsilon, rows=rows, calibration=None)


def calibration_table(fit: Fit) -> ReportTable:
    """Table 1 of one calibration."""
    protocol = dict(fit.source.protocol)
    protocol.pop("prompts", None)  # a hundred lines; the input has them
    sampling = protocol.get("sampling")
    parts = [
        f"kappa {fit.kappa:.4g}, epsilon {fit.epsilon:.4g}",
        _said(protocol, "draws", "images drawn"),
        _said(protocol, "encodes", "pictures encoded"),
        "sampling: " + ", ".join(f"{k} {v}" for k, v in sampling.items()) if isinstance(sampling, dict) else "",
        f"seed {protocol['seed']}" if "seed" in protocol else "",
        inputs_of([fit.source]),
    ]
    return ReportTable(
        number=1,
        title="calibration",
        caption="; ".join(part for part in parts if part),
        columns={name: name for name in fit.rows[0]},
        rows=[dict(row) for row in fit.rows],
        protocol=protocol,
    )


def _said(protocol: dict[str, Any], name: str, what: str) -> str:
    return f"{protocol[name]} {what}" if name in protocol else ""
