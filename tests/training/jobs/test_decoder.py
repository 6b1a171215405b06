from softdecode.training.jobs import VARIANTS


def test_the_variants_are_what_the_tables_compare():
    """The tables' rows: each differs from the paper's soft, calibrated decoder in mode, calibration or source."""
    found = {name: (variant.mode, variant.source, variant.calibrated) for name, variant in VARIANTS.items()}
    assert found == {
        "hard": ("hard", "proxy", True),
        "soft-raw": ("soft", "proxy", False),
        "joint-raw": ("joint", "proxy", False),
        "soft": ("soft", "proxy", True),
        "joint": ("joint", "proxy", True),
        "soft-forced": ("soft", "teacher-forced", True),
        "joint-forced": ("joint", "teacher-forced", True),
    }
