from softdecode.training.jobs import VARIANTS


def test_the_variants_differ_in_one_thing_from_the_papers():
    """The table's rows: each differs from the paper's soft, calibrated decoder in mode or in calibration."""
    assert {name: (variant.mode, variant.calibrated) for name, variant in VARIANTS.items()} == {
        "hard": ("hard", True),
        "soft-raw": ("soft", False),
        "soft": ("soft", True),
        "joint": ("joint", True),
    }
