"""Packages of datasets, fetched into the cache.

fluent_emoji: `npm pack` of two packages (22 MB; it downloads and runs nothing of them);
elpv: `pip download` of one wheel (91 MB). The npm archives are checked against the SHA-256 below.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from contextlib import nullcontext, suppress
from pathlib import Path

from hierdiff.data import elpv, fluent_emoji
from hierdiff.files.cache import built_by_one

NPM = {  # package: (folder, SHA-256 of the archive)
    fluent_emoji.IMAGES: (
        "fluent-emoji-3d",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    fluent_emoji.LABELS: (
        "emojibase-data",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
}


UNFIT = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)  # of a broken archive


def fetch_fluent_emoji(folder: Path) -> None:
    """Unpacks both npm packages into `folder`, checked against their SHA-256."""
    for package, (name, digest) in NPM.items():
        archive = _archive(
            ["npm", "pack", "--silent", "--ignore-scripts", package], folder, "*.tgz"
        )
        _check(archive, digest)
        with tarfile.open(archive) as tar:
            tar.extractall(folder / f"{name}.part", filter="data")
        (folder / f"{name}.part" / "package").rename(folder / name)
        (folder / f"{name}.part").rmdir()
        archive.unlink()


def fetch_elpv(folder: Path) -> None:
    """Unpacks the data of the wheel into `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    archive = _archive([*pip, elpv.PACKAGE], folder, "*.whl")
    with zipfile.ZipFile(archive) as wheel:
        names = [name for name in wheel.namelist() if name.startswith("elpv_dataset/data/")]
        wheel.extractall(folder, names)
    archive.unlink()


SOURCES = {
    "fluent_emoji": (fetch_fluent_emoji, fluent_emoji.package_folder, " and ".join(NPM)),
    "elpv": (fetch_elpv, lambda cache: elpv.package_folder(cache).parents[1], elpv.PACKAGE),
}


def fetch(name: str, cache: Path) -> Path:
    """Fetches the packages of the dataset `name` into the cache, unless they are there; their
    folder.

    They are unpacked under another name, then renamed. One process fetches and others wait.
    """
    get, place, what = SOURCES[name]
    folder = place(cache)
    with built_by_one(folder) as part:
        if folder.is_dir():
            print(f"{name} is already in {folder}")
            return folder
        print(f"fetching {what} into {folder}")
        part.mkdir()
        get(part)
        with suppress(OSError) if folder.is_dir() else nullcontext():  # another was first
            os.rename(part, folder)
    return folder


def _archive(command: list[str], folder: Path, pattern: str) -> Path:
    print("  " + " ".join(command))
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(f"{command[0]} left {len(found)} files {pattern}: it should be one")
    return found[0]


def _check(archive: Path, digest: str) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        raise ValueError(f"{archive.name} has sha256 {found}, expected {digest}: fetch it again")
