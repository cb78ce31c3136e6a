"""Images that came from elsewhere: a folder, a zip, shards, an `.npz` or a Python function, in one
order and with one hash.

Files are in natural order of their paths (2.png before 10.png), so that a folder, a zip of it,
`.tar` shards of neighbouring files and an `.npz` of the same images (`arr_0`: uint8, n h w c, as
ADM and EDM write it) are the same images.
`sha256` is of the decoded pixels: that of `np.load(FILE)["arr_0"].tobytes()`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure.external.array import Stack
from benchmarks.measure.external.base import External
from benchmarks.measure.external.files import Files, files_of_shards, files_of_tree
from benchmarks.measure.external.function import Function, drawn, function_of
from hierdiff.data.folder import opened_tree
from hierdiff.data.split import named_files

__all__ = ["External", "Files", "Function", "Stack", "external_images"]


def external_images(
    images: str | Path | Mapping[str, Any], trust: Collection[str] = ()
) -> External:
    """The images of a folder, which may be one of `.tar` shards, a `.zip`, a `.tar`, an `.npz`, or
    of a function that yields them.

    images: a path, `package.module:function`, or `{name: package.module:function, argument: ...}`.
    trust: whose code may be imported for it, see `hierdiff.trust.check_trust`.

    Raises:
        FileNotFoundError: where there is nothing, or no image in it.
        PermissionError: for a function of code that is not trusted.
        ValueError: for anything else, and for a file that is damaged.
    """
    node = function_of(images)
    if node is not None:
        return drawn(node, trust)
    if isinstance(images, Mapping):
        raise ValueError(
            f"images={dict(images)} names no function: write "
            f"{{name: package.module:function, argument: value}}, or a path"
        )
    path = Path(images).expanduser()
    if path.is_dir():
        shards, tree = named_files(path, "*.tar"), opened_tree(path)
        if shards and tree.images:
            raise ValueError(
                f"images={path} holds {len(shards)} .tar shards and {len(tree.images)} images of "
                f"their own: give a folder of either"
            )
        return files_of_shards(path, shards) if shards else files_of_tree(tree)
    if not path.exists():
        raise FileNotFoundError(
            f"images={path} does not exist: give a folder, .npz, .zip or .tar, or a function as "
            f"package.module:function"
        )
    if path.suffix == ".npz":
        return Stack(path)
    if path.suffix == ".zip":
        return files_of_tree(opened_tree(path))
    if path.suffix == ".tar":
        return files_of_shards(path, [path])
    raise ValueError(f"images={path} is no folder, .npz, .zip or .tar: give one of these")
