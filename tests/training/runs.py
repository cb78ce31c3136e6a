"""Very small runs for the tests of training; importable, so that other processes can make them."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hierdiff.batch import Batch
from hierdiff.data import ImageData
from hierdiff.methods import Generator, Images, Method, Request, Stage, methods
from hierdiff.noise import Noise, seed_of
from hierdiff.objective import Loss
from hierdiff.training import Recipe, Summary, train

# a clean server that has imported everything once; its children start at once
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    ["tests.training.runs", "hierdiff.prepared", "hierdiff.sampled", "lightning_fabric"]
)

INNER = {
    **{"name": "unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 0},
    **{"groups": 4, "middle": False},
}
NESTED = {
    **{"name": "nested_unet", "width": 8, "multiples": [1, 1], "blocks": [1, 0]},
    **{"attention": 0, "groups": 4, "inner": INNER},
}
NODE: dict[str, Any] = {
    "name": "mdm",
    "resolutions": [8, 4],
    "denoiser": NESTED,
    "sampling": {"steps": 2},
}
GROWN = {**NODE, "growth": [0.4]}


def images(n: int = 20, side: int = 8) -> ImageData:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    return ImageData(
        name="noise",
        images=pixels,
        keys=tuple(str(i) for i in range(n)),
        licence="CC0-1.0",
        labels=np.arange(n, dtype=np.int64) % 4,
        class_names=("a", "b", "c", "d"),
        flip=True,
    )


def recipe(**options: Any) -> Recipe:
    given = {
        **{"steps": 12, "batch_size": 4, "warmup": 2, "ema": [16, 0], "log_every": 3},
        **{"checkpoint_every": 4, "sheet_images": 2, "progress": False, "accelerator": "cpu"},
    }
    return Recipe(**{**given, **options})


def built(node: dict[str, Any] = NODE, seed: int = 0) -> Method:
    torch.manual_seed(seed_of(seed, "init"))
    return methods.build(node, offered={"channels": 3, "classes": 4})


def config(node: dict[str, Any] = NODE, **parts: Any) -> dict[str, Any]:
    data = images()
    names = list(data.class_names)
    return {"method": node, "facts": data.facts, "class_names": names, "text": None, **parts}


def run(folder: Path, node: dict[str, Any] = NODE, seed: int = 0, **options: Any) -> Summary:
    return train(
        built(node, seed), images(), folder, recipe(**options), seed=seed, config=config(node)
    )


def in_process(folder: Path, node: dict[str, Any], environment: dict[str, str], **options: Any):
    """`run` as the work of another process."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    run(folder, node, **options)


def kept_in_process(
    folder: Path, node: dict[str, Any], environment: dict[str, str], **options: Any
):
    """Training as the work of another process, which keeps what it holds at the end by its rank."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    method = built(node)
    train(method, images(), folder, recipe(**options), config=config(node))
    state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    save_file(state, folder / f"rank_{environment['RANK']}.safetensors")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environments(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of `count` processes on this machine."""
    shared = {
        **{"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"},
        **{"MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)},
        **{"LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"},
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def in_processes(
    count: int, work: Any, folder: Path, node: dict[str, Any], **options: Any
) -> list[int | None]:
    """Exit codes of `work(folder, node, environment, **options)` in so many processes."""
    processes = [
        server.Process(target=work, args=(folder, node, environment), kwargs=options)
        for environment in environments(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    return [process.exitcode for process in processes]


def entry(module: str, folder: Path, arguments: Sequence[str], largest: int | None) -> None:
    """`python -m module arguments` in `folder`, its words in the file `said`."""
    os.chdir(folder)
    torch.set_num_threads(1)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if largest is not None:  # bytes in a file: what a full disk does, as EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


def command(
    module: str, folder: Path, arguments: Sequence[str], largest: int | None = None
) -> tuple[int | None, str]:
    """Exit code and words of an entry point in a process of its own."""
    process = server.Process(target=entry, args=(module, folder, arguments, largest))
    process.start()
    process.join(120)
    return process.exitcode, (folder / "said").read_text()


def signalled(folder: Path, after: float, **options: Any) -> None:
    """`run` that gets Ctrl-C `after` seconds."""

    def send() -> None:
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()
    run(folder, **options)


class Line(Generator):
    """y = w . x fitted to the mean pixel: no randomness, a loss that is a mean over examples."""

    def __init__(self, spoilt_at: int | None = None, share: float = 1.0):
        super().__init__()
        self.name, self.resolutions, self.share = "line", (8,), share
        self.net = nn.Linear(3 * 8 * 8, 1)
        self.spoilt_at = spoilt_at

    def draw(self, batch: Batch, noise: Noise) -> None:
        return None

    def forward(self, batch: Batch, draws: None, turn: str = "denoiser", step: int = 0) -> Loss:
        flat = batch.images.flatten(1)
        error: Tensor = ((self.net(flat)[:, 0] - flat.mean(1) - 1) ** 2).mean()
        if self.spoilt_at is not None and step >= self.spoilt_at:
            error = error * float("nan")
        return Loss(error, {"loss/8": error.detach()})

    def sample(self, request: Request) -> Images:
        return {8: request.noise((request.n, 3, 8, 8))}


class Lines(Method):
    def __init__(self, stages: Sequence[Stage]):
        super().__init__((8,), stages)
