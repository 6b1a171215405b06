"""The paper's own numbers, arXiv 2603.13389, to be read beside ours, never against them.

They were measured with other models on other pictures. Table 1's thresholds are left out: their exponents are lost in
the text that we have.
"""

from collections.abc import Sequence

from softdecode.evaluation.report.table import ReportTable

TITLE = "Published numbers (other models, other protocol)"
_JANUS, _LLAMAGEN = "Janus-Pro 7B", "LlamaGen-XL"
_OURS = "LCDM + LC + DCDD"
_QUALITY = ("rFID ↓", "SSIM ↑", "LPIPS ↓")
_MJHQ = ["overall", "animals", "art", "fashion", "food", "indoor", "landscape", "logo", "people", "plants", "vehicles"]
_GENEVAL = ["overall", "single", "two", "counting", "colours", "position", "colour attribution"]


def published_tables() -> list[ReportTable]:
    """The paper's Tables 1 to 8."""
    return [_calibration(), *_reconstruction(), *_generation(), *_ablations(), *_llamagen()]


def _calibration() -> ReportTable:
    return _table(
        1,
        f"calibration, {_JANUS}",
        "statistic",
        ("VLM", "encoder", "encoder (calibrated)"),
        [
            ("top-1 probability", 0.221627, 0.000151, 0.222283),
            ("top-2 probability", 0.100532, 0.000145, 0.064229),
            ("normalised entropy", 0.415303, 0.993630, 0.424155),
            ("tail entropy (beyond 8)", 0.560794, 0.993661, 0.520536),
            ("Otsu rank", 2, 5767, 2),
            ("head mass", 0.322160, 0.492722, 0.286512),
        ],
    )


def _reconstruction() -> list[ReportTable]:
    imagenet = [("VQ decoder", 2.8511, 0.5786, 0.1541), (_OURS, 0.7535, 0.5957, 0.1374)]
    mjhq = [("VQ decoder", 4.4882, 0.6564, 0.1432), (_OURS, 1.8127, 0.6782, 0.1308)]
    return [
        _table(2, f"reconstruction, {_JANUS}, ImageNet-1K validation", "decoder", _QUALITY, imagenet),
        _table(2, f"reconstruction, {_JANUS}, MJHQ-30K", "decoder", _QUALITY, mjhq),
    ]


def _generation() -> list[ReportTable]:
    mjhq = [
        _row("VQ decoder", "14.2888 31.6866 35.6408 32.1410 33.1787 32.4016 30.5020 42.3565 37.6049 33.1228 27.4424"),
        _row(_OURS, "9.4160 25.1060 28.9806 26.0182 28.1580 28.5172 26.7104 38.2032 30.2217 33.6617 25.0277"),
    ]
    geneval = [
        ("VQ decoder", 77.24, 97.81, 84.09, 56.56, 87.50, 75.75, 61.75),
        (_OURS, 78.31, 99.06, 88.89, 59.38, 88.30, 72.50, 61.75),
    ]
    return [
        _table(3, f"gFID ↓, {_JANUS}, MJHQ-30K", "decoder", _MJHQ, mjhq),
        _table(3, f"GenEval ↑, {_JANUS}", "decoder", _GENEVAL, geneval),
    ]


def _ablations() -> list[ReportTable]:
    ablation = [
        ("diffusion decoder (hard codes)", 33.5081, 0.4244, 0.4132),
        ("DCDD + LCDM", 31.2049, 0.4275, 0.4009),
        ("DCDD + LCDM + LC", 30.5760, 0.4360, 0.3875),
    ]
    latency = [("VLM + VQ decoder", 14.28, 11.86), ("VLM + diffusion decoder", 9.41, 15.56)]
    steps = [
        ("VQ decoder", 23.1038, 0.5756, 0.1551),
        ("5 steps", 35.0169, 0.5855, 0.1918),
        ("10 steps", 20.8859, 0.5995, 0.1478),
        ("15 steps", 18.3279, 0.6012, 0.1417),
        ("20 steps", 17.6918, 0.5993, 0.1405),
        ("25 steps", 17.5659, 0.5975, 0.1404),
        ("30 steps", 17.6969, 0.5954, 0.1410),
        ("35 steps", 17.7818, 0.5940, 0.1414),
    ]
    return [
        _table(4, f"ablation, {_JANUS}, ImageNet-1K validation", "decoder", _QUALITY, ablation),
        _table(5, f"latency, {_JANUS}, MJHQ-30K", "decoder", ("gFID ↓", "latency (s) ↓"), latency),
        _table(6, f"denoising steps, {_JANUS}, first 1,000 of ImageNet-1K validation", "decoder", _QUALITY, steps),
    ]


def _llamagen() -> list[ReportTable]:
    imagenet = [("VQ decoder", 4.1919, 0.5566, 0.1388), (_OURS, 1.4087, 0.5600, 0.1404)]
    mjhq = [("VQ decoder", 4.9653, 0.6140, 0.1407), (_OURS, 1.9028, 0.6060, 0.1484)]
    drawn = [
        _row("VQ decoder", "59.0292 74.1959 82.9698 92.8457 86.4562 89.2189 82.0326 68.5263 105.9981 87.2854 82.0326"),
        _row(_OURS, "61.0925 74.6621 87.1321 104.2776 93.6168 96.6309 90.0496 66.9729 114.4049 93.7683 90.0496"),
    ]
    geneval = [
        ("VQ decoder", 30.02, 69.06, 32.32, 14.69, 55.85, 5.25, 3.00),
        (_OURS, 28.19, 70.94, 25.76, 19.38, 47.07, 4.25, 1.75),
    ]
    return [
        _table(7, f"reconstruction, {_LLAMAGEN}, ImageNet-1K validation", "decoder", _QUALITY, imagenet),
        _table(7, f"reconstruction, {_LLAMAGEN}, MJHQ-30K", "decoder", _QUALITY, mjhq),
        _table(8, f"gFID ↓, {_LLAMAGEN}, MJHQ-30K", "decoder", _MJHQ, drawn),
        _table(8, f"GenEval ↑, {_LLAMAGEN}", "decoder", _GENEVAL, geneval),
    ]


def _row(name: str, numbers: str) -> tuple:
    return (name, *map(float, numbers.split()))


def _table(number: int, title: str, first: str, columns: Sequence[str], rows: Sequence[tuple]) -> ReportTable:
    """A table whose rows are a name and numbers."""
    names = [first, *columns]
    return ReportTable(
        number=number,
        title=title,
        caption=f"arXiv 2603.13389, Table {number}, as printed",
        columns={name: name for name in names},
        rows=[dict(zip(names, row, strict=True)) for row in rows],
    )
