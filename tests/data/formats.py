"""The same images in every format of files, and small files that are broken in one way each."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("black cat", "Käfer")  # a space, and a letter that is no ASCII
COUNT = 48


def png(number: int, size: tuple[int, int] = (12, 10)) -> bytes:
    """A file of noise, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def files(count: int = COUNT) -> dict[str, bytes]:
    """Image files by key, `train/CLASS/NUMBER.png` and every fourth below `val`."""
    return {
        f"{'val' if i % 4 == 3 else 'train'}/{CLASSES[i // 2 % 2]}/{i:02d}.png": png(i)
        for i in range(count)
    }


def label_of(key: str) -> int:
    return CLASSES.index(key.split("/")[1])


def caption_of(key: str) -> str:
    return f"number {int(key[-6:-4])}"


def write_names(root: Path) -> Path:
    (root / "names.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return root / "names.txt"


def write_tree(root: Path, content: Mapping[str, bytes], captions: bool = True) -> Path:
    for key, data in content.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if captions:
            path.with_suffix(".txt").write_text(caption_of(key))
    (root / "train" / ".hidden").mkdir(parents=True)
    (root / "train" / ".hidden" / "x.png").write_bytes(b"no image")
    return root


def write_zip(path: Path, content: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for key, data in content.items():
            archive.writestr(f"photos/{key}", data)
            archive.writestr(f"photos/{key[:-4]}.txt", caption_of(key))
        archive.writestr("__MACOSX/photos/._x.png", b"no image")
    return path


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def example(key: str, data: bytes) -> list[tuple[str, bytes]]:
    """The members of one example of webdataset."""
    beside = {".cls": str(label_of(key)), ".txt": caption_of(key)}
    return [(key, data), *((key[:-4] + suffix, text.encode()) for suffix, text in beside.items())]


def write_shards(root: Path, content: Mapping[str, bytes], size: int = 10) -> Path:
    for part in ("train", "val"):
        keys = [key for key in content if key.startswith(part)]
        for number in range(0, len(keys), size):
            members = [
                m for key in keys[number : number + size] for m in example(key, content[key])
            ]
            write_tar(root / f"{part}-{number // size:04d}.tar", members)
    return root


def write_parquet(
    root: Path, content: Mapping[str, bytes], group: int = 7, shards: int = 1
) -> Path:
    """Tables as those of the hub; shards: files of the training part."""
    import pyarrow as pa
    from pyarrow import parquet

    root.mkdir(parents=True)
    for part, count in (("train", shards), ("val", 1)):
        keys = [key for key in content if key.startswith(part)]
        size = -(-len(keys) // count)
        for number in range(count):
            some = keys[number * size : (number + 1) * size]
            table = pa.table(
                {
                    "image": [{"bytes": content[key], "path": key} for key in some],
                    "name": some,
                    "label": [label_of(key) for key in some],
                    "text": [caption_of(key) for key in some],
                }
            )
            path = root / f"{part}-{number:05d}-of-{count:05d}.parquet"
            parquet.write_table(table, path, row_group_size=group)
    return root


def write_all(root: Path, content: Mapping[str, bytes]) -> dict[str, dict[str, object]]:
    """Nodes of data by format."""
    root.mkdir(parents=True, exist_ok=True)
    names = str(write_names(root))
    stream = {"workers": 0}
    folder = str(write_tree(root / "folder", content))
    return {
        "folder": {"name": "folder", "root": folder, "class_names": names},
        "encoded folder": {
            **{"name": "folder", "root": folder, "class_names": names, "reading": stream},
        },
        "zip": {
            **{"name": "folder", "root": str(write_zip(root / "photos.zip", content))},
            **{"class_names": names, "reading": stream},
        },
        "webdataset": {
            **{"name": "webdataset", "root": str(write_shards(root / "shards", content))},
            **{"class_names": names, "reading": stream},
        },
        "parquet": {
            **{"name": "parquet", "root": str(write_parquet(root / "tables", content))},
            **{"class_names": names, "reading": stream},
        },
    }
