"""Result files as the commands write them, made by hand."""

import json

import pytest

SETTINGS = {
    "hard": {"mode": "hard", "draft": True, "noise_scale": 0.6, "kappa": 30.0, "epsilon": 0.01},
    "soft-raw": {"mode": "soft", "draft": True, "noise_scale": 0.6, "kappa": 1.0, "epsilon": 0.0},
    "soft": {"mode": "soft", "draft": True, "noise_scale": 0.6, "kappa": 30.0, "epsilon": 0.01},
    "joint": {"mode": "joint", "draft": True, "noise_scale": 0.6, "kappa": 30.0, "epsilon": 0.01},
}
METRICS = {"extractor": "tiny-net", "extractor_sha256": "e" * 64, "ssim": {"window": 11}, "torchmetrics": "1.9.0"}


def make_row(name, frechet, steps=None, *, bits=0.5, psnr=None, ssim=None, **more):
    return {
        "name": name,
        "condition": "tokens",
        "steps": steps,
        "bits_per_pixel": bits,
        "frechet": float(frechet),
        "kernel": frechet / 1000,
        "kernel_std": 0.0,
        "psnr": psnr,
        "ssim": ssim,
        "seconds": 1.0,
        "frechet_over_vq": 123.0,  # of another table; never to be shown
        **more,
    }


def make_result(rows, *, task="reconstruction", metrics=METRICS, decoders=SETTINGS, **protocol):
    named = {row["name"] for row in rows}
    return {
        "command": f"evaluate {task}",
        "protocol": {
            "task": task,
            "reference": "drawn shapes",
            "data_sha256": "d" * 64,
            "count": 100,
            "resolution": [64, 64],
            "resizer": "none",
            "seed": 0,
            "codebook_sha256": "c" * 64,
            "decoders": {name: settings for name, settings in decoders.items() if name in named},
            "metrics": metrics,
            **protocol,
        },
        "rows": rows,
        "provenance": {"git": "abc", "time": "2026-01-02T03:04:05+00:00"},
    }


def make_reconstruction(**protocol):
    """All rows of a reconstruction table, hard and soft with two numbers of steps."""
    return make_result(
        [
            make_row("vae-ceiling", 10, bits=16.0, psnr=40.0, ssim=0.99),
            make_row("vq", 100, psnr=20.0, ssim=0.8),
            make_row("hard", 80, 2, psnr=21.0, ssim=0.82),
            make_row("hard", 60, 4, psnr=20.5, ssim=0.81),
            make_row("soft-raw", 75, 4, bits=3.0, psnr=23.0, ssim=0.85),
            make_row("soft", 70, 2, bits=3.0, psnr=22.0, ssim=0.84),
            make_row("soft", 50, 4, bits=3.0, psnr=21.5, ssim=0.83),
        ],
        **protocol,
    )


def make_generation(**protocol):
    rows = [make_row("vq", 80), make_row("hard", 60, 4), make_row("soft", 40, 4), make_row("joint", 44, 4)]
    return make_result(rows, task="generation", **{"sampling": {"temperature": 1.0}, **protocol})


@pytest.fixture
def write(tmp_path):
    """Write a result into a folder of its own and return the file."""

    def to(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return to


@pytest.fixture(scope="session")
def results():
    """The makers above, for tests that vary them."""

    class Makers:
        row = staticmethod(make_row)
        result = staticmethod(make_result)
        reconstruction = staticmethod(make_reconstruction)
        generation = staticmethod(make_generation)
        settings = SETTINGS
        metrics = METRICS

    return Makers
