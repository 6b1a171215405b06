"""Where the presets' jobs write, and find each other's results."""

from pathlib import Path

RUNS = Path("runs")
