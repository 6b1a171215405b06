"""The embedded text-to-emoji stack: its folders in the package."""

from pathlib import Path

EMBEDDED = Path(__file__).parent / "emoji64"
DEFAULT_VLM = EMBEDDED / "vlm"
DEFAULT_BASE = EMBEDDED / "base"
DEFAULT_DECODER = EMBEDDED / "decoders" / "joint"
