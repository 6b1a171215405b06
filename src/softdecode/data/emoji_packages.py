"""The npm packages that the embedded stack's pictures and names come from, pinned by version and hash."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from softdecode.errors import SoftDecodeError


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned npm package. `integrity` is npm's own SHA-512 of the tarball, base64."""

    name: str
    version: str
    licence: str
    integrity: str

    @property
    def spec(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def filename(self) -> str:
        """The name that `npm pack` gives the tarball."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package(
    name="emoji-datasource-google",
    version="16.0.0",
    licence="Apache-2.0",
    integrity="ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
)
TWEMOJI = Package(
    name="emoji-datasource-twitter",
    version="16.0.0",
    licence="CC-BY-4.0",
    integrity="7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
)
FLUENT = Package(
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    licence="MIT",
    integrity="Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
NAMES = Package(
    name="emojibase-data",
    version="16.0.3",
    licence="MIT",
    integrity="MopInVCDZeXvqBMPJxnvYUyKw9ImJZqIDr2sABo6acVSPev5IDYX+mf+0tsu96JJyc3INNvgIf06Eso7bdTX2Q==",
)
PACKAGES = (NOTO, TWEMOJI, FLUENT, NAMES)


def fetch_packages(folder: Path) -> None:
    """Put every package's tarball into `folder`, with `npm pack` where one is missing, and check the hashes.

    Raises:
        SoftDecodeError: npm is missing or fails, or a tarball is not the pinned one.
    """
    missing = [package for package in PACKAGES if not (folder / package.filename).is_file()]
    if missing:
        _npm_pack(missing, folder)
    for package in PACKAGES:
        with open(folder / package.filename, "rb") as file:
            found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
        if found != package.integrity:
            raise SoftDecodeError(
                f"{folder / package.filename} is not the pinned {package.spec} (its SHA-512 differs); "
                "delete it and run the command again"
            )


def open_package(folder: Path, package: Package) -> tarfile.TarFile:
    """Open a fetched package for reading."""
    return tarfile.open(folder / package.filename)


def _npm_pack(packages: list[Package], folder: Path) -> None:
    command = ["npm", "pack", "--silent", *(package.spec for package in packages)]
    by_hand = f"run `{' '.join(command)}` in {folder}"
    if shutil.which("npm") is None:
        raise SoftDecodeError(f"the emoji pictures are not in {folder} and npm is not installed; {by_hand}")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SoftDecodeError(f"npm could not fetch the emoji pictures ({reason}); {by_hand}")
