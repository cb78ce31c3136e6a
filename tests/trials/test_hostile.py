"""More than 200 files that somebody else may have written: nothing runs, nothing hangs, and what is
said of each is a sentence."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save

from benchmarks.cost import again, worker
from hierdiff.interop.reading import read_content
from hierdiff.metrics import weights
from hierdiff.metrics.extractors import extractors
from hierdiff.metrics.reference import read_moments
from hierdiff.results.record import FILE, Record
from hierdiff.training.checkpoint import newest
from hierdiff.training.format import KEY
from hierdiff.training.load import load_method, stage_tensors
from hierdiff.training.run import stage_steps
from hierdiff.training.whole import Whole
from tests.benchmarks import rows
from tests.training.runs import GROWN, built, config, recipe, run

pytestmark = pytest.mark.trial
REFUSALS = (ValueError, OSError, ImportError)  # what commands print as one line
SECONDS, KIB = 20.0, 1_500_000  # a file takes at most; more memory than before at most
PAYLOAD = "payload_of_trial"
Case = tuple[str, Callable[[], Any]]

VALUES: list[Any] = [
    *(None, True, -1, 0, 2.5, 10**9, 10**30, float("nan"), float("inf"), "", "a" * 10_000, "\x00"),
    *([], {}, [[]], {"name": None}, {"name": 3}, {"name": ["mdm"]}, [1] * 1000),
    *({"name": f"{PAYLOAD}:Net"}, {"name": "os:system", "command": "touch executed"}),
    *({"name": "torch.nn:Module"}, {"name": "hierdiff.methods:Diffusion"}, {"name": ".x:Y"}),
    *({"name": "builtins:eval"}, {"_target_": "os.system", "_args_": ["touch executed"]}),
    *("!!python/object/apply:os.system ['touch executed']", "${oc.env:HOME}", "\u202e\u2028"),
]


def place_in(node: Any, draw: random.Random) -> list[Any]:
    """Of something in a tree, however many leaves its branches have."""
    place: list[Any] = []
    while isinstance(node, (dict, list)) and node and (not place or draw.random() < 0.75):
        place.append(draw.choice(list(node) if isinstance(node, dict) else range(len(node))))
        node = node[place[-1]]
    return place


def mutated(node: Any, draw: random.Random) -> Any:
    """Something in it replaced, added or lost."""
    node = copy.deepcopy(node)
    *path, last = place_in(node, draw)
    inside = node
    for key in path:
        inside = inside[key]
    act = draw.choice(["replace", "replace", "lose", "add", "nest"])
    if act == "lose" and isinstance(inside, dict):
        del inside[last]
    elif act == "add" and isinstance(inside[last], dict):
        inside[last][draw.choice(["name", "inner", "width", "x"])] = draw.choice(VALUES)
    elif act == "nest":
        for _ in range(draw.choice([5, 100, 400])):
            inside[last] = {"inner": inside[last]}
    else:
        inside[last] = draw.choice(VALUES)
    return node


def bent(content: bytes, draw: random.Random) -> bytes:
    """Cut, with flipped bits, or with a length that lies."""
    act = draw.choice(["cut", "flip", "flip", "length", "twice"])
    if act == "cut":
        return content[: draw.randrange(len(content))]
    if act == "twice":
        return content + content
    changed = bytearray(content)
    if act == "length":
        changed[:8] = draw.choice([2**63, 2**40, 0, 10**8, 7]).to_bytes(8, "little")
    for _ in range(3 if act == "flip" else 0):
        changed[draw.randrange(min(len(changed), 4000))] ^= 1 << draw.randrange(8)
    return bytes(changed)


class Trap:
    """What a pickle would call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("executed", "w")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(folder, GROWN, checkpoint_every=4, keep=9)
    return folder


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with code that leaves a mark where it is imported."""
    (tmp_path / f"{PAYLOAD}.py").write_text("open('executed', 'w')\nclass Net: ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def of_weights(folder: Path, source: Path, draw: random.Random) -> Iterator[Case]:
    """Final weights and checkpoints, loaded, sampled from, and taken as a stage of another run."""
    stage = built(GROWN).stages[0]
    paths = [source / "weights.safetensors", source / "checkpoints" / "step_0000008.safetensors"]
    for path in paths:
        content, tensors = path.read_bytes(), load_file(path)
        size = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][KEY])
        for i in range(50):
            made = folder / f"{path.stem}_{i}.safetensors"
            if i < 15:
                made.write_bytes(bent(content, draw))
            else:
                facts = mutated(about, draw)
                if i % 3 == 0:
                    facts = {**about, "config": mutated(about["config"], draw)}
                made.write_bytes(save(tensors, {KEY: json.dumps(facts)}))
            if i % 5 == 4:
                yield "stage weights", lambda made=made: stage_tensors(made, stage, config(GROWN))
            else:
                yield path.parent.name[:11], lambda made=made: load_method(made)


def of_checkpoints(folder: Path, source: Path, draw: random.Random) -> Iterator[Case]:
    """The newest of a run that goes on."""
    path = source / "checkpoints" / "step_0000008.safetensors"
    content, tensors = path.read_bytes(), load_file(path)
    size = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][KEY])
    method = built(GROWN)
    check = Whole(method, recipe(), stage_steps(method, recipe().steps)).check
    for i in range(30):
        place = folder / f"run_{i}"
        place.mkdir()
        broken = save(tensors, {KEY: json.dumps(mutated(about, draw))})
        (place / path.name).write_bytes(bent(content, draw) if i < 5 else broken)
        yield "goes on", lambda place=place: newest(place, check)


def of_runs(folder: Path, source: Path, draw: random.Random) -> Iterator[Case]:
    """Configs and records of shared runs, timed again and read."""
    known = yaml.safe_load((source / "config.yaml").read_text())
    known["trainer"] = {"precision": "32-true", "channels_last": False, "compile": False}
    options = {"cost": {"batches": [4], "repeats": 1, "memory_cap": None}}
    record = rows.record("a", resolutions=(8, 4), config=options)
    for i in range(60):
        place = folder / f"shared_{i}"
        record.write(place)
        if i < 35:
            text = json.dumps(mutated(known, draw))  # which is YAML as well
            if i % 7 == 0:
                call = "!!python/object/apply:os.system ['touch executed']"
                text = f"{{more: {call}, {text[1:]}"
            (place / "config.yaml").write_text(text)
            yield "config", lambda place=place: again.time_again([str(place)], options["cost"])
        else:
            (place / "config.yaml").write_text(yaml.safe_dump(known))
            content = (place / FILE).read_bytes()
            made = mutated(json.loads(content), draw)
            if i % 2 and isinstance(made, dict):  # by somebody who knows how
                made.pop("hash", None)
                made["hash"] = hashlib.sha256(
                    json.dumps(made, sort_keys=True, separators=(",", ":")).encode()
                ).hexdigest()
            told = json.dumps(made).encode()
            (place / FILE).write_bytes(bent(content, draw) if i % 4 == 0 else told)
            yield "record", lambda place=place: Record.read(place)
            yield "record", lambda place=place: again.time_again([str(place)], options["cost"])


def of_others(folder: Path, source: Path, draw: random.Random) -> Iterator[Case]:
    """References, released autoencoders and files of weights."""
    extractor = extractors.build({"name": "random_conv"})
    d = extractor.width
    np.savez(folder / "whole.npz", mu=np.zeros(d), sigma=np.eye(d), n=np.asarray(9))
    content = (folder / "whole.npz").read_bytes()
    for i in range(25):
        path = folder / f"reference_{i}.npz"
        path.write_bytes(bent(content, draw))
        if i % 5 == 0:
            np.savez(path, mu=np.array([Trap()], dtype=object), sigma=np.eye(d))
        yield "reference", lambda path=path: read_moments(path, extractor, 8)
    torch.save({"state_dict": {"encoder.conv_in.weight": torch.ones(3)}}, folder / "whole.pt")
    for i in range(25):
        path = folder / f"released_{i}.{'safetensors' if i % 4 == 0 else 'pt'}"
        path.write_bytes(bent((folder / "whole.pt").read_bytes(), draw))
        if i % 5 == 0:
            path.write_bytes(pickle.dumps({"state_dict": Trap()}))
        read = weights.read_weights if i % 2 else read_content
        yield "released", lambda path=path, read=read: read(path)


def test_nothing_runs_nothing_hangs_and_every_refusal_is_a_sentence(
    shared: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    class Refuses(worker.Worker):
        def __init__(self, case: Any, batch: int):
            raise worker.CaseFailure("no process in this trial")

    monkeypatch.setattr(worker, "Worker", Refuses)
    tried: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    faults = []
    for number, kind in enumerate((of_weights, of_checkpoints, of_runs, of_others)):
        folder = shared / kind.__name__
        folder.mkdir()
        for what, act in kind(folder, run_folder, random.Random(number)):
            memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            tried[what] += 1
            try:
                act()
            except REFUSALS as error:
                refused[what] += 1
                if "\n" in str(error).strip() or not str(error) or len(str(error)) > 12_000:
                    faults.append(f"{what} {tried[what]}: no sentence: {error!r}")
            except BaseException as error:
                faults.append(f"{what} {tried[what]}: {type(error).__name__}: {error}")
            if time.monotonic() - began > SECONDS:
                faults.append(f"{what} {tried[what]} took {time.monotonic() - began:.0f} s")
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory > KIB:
                faults.append(f"{what} {tried[what]} took memory")
            if (shared / "executed").exists() or PAYLOAD in sys.modules:
                pytest.fail(f"{what} {tried[what]} ran code")
    print(f"tried {dict(tried)}, refused {dict(refused)}")
    assert not faults, "\n".join(faults)
    assert sum(tried.values()) >= 200, tried
    assert sum(refused.values()) > 150, refused  # the others are as good as before


@pytest.mark.parametrize("module", ["hierdiff.sample", "benchmarks.cost", "hierdiff.train"])
def test_commands_refuse_a_shared_payload_in_one_line(shared: Path, run_folder: Path, module: str):
    node = copy.deepcopy(config(GROWN))
    node["method"]["denoiser"]["inner"] = {"name": f"{PAYLOAD}:Net"}
    place = shared / "shared"
    rows.record("a", resolutions=(8, 4), config={"cost": {"batches": [1]}}).write(place)
    (place / "config.yaml").write_text(yaml.safe_dump({**node, "trainer": {}}))
    about = {"schema": 1, "version": "0", "kind": "weights", "config": node}
    tensors = load_file(run_folder / "weights.safetensors")
    (place / "weights.safetensors").write_bytes(save(tensors, {KEY: json.dumps(about)}))
    words = {
        "hierdiff.sample": ["checkpoint=shared/weights.safetensors"],
        "benchmarks.cost": ["shared"],
        "hierdiff.train": [
            *("method=cascaded", "method.stages.0.weights=shared/weights.safetensors"),
            *("method.stages.0.share=0", "budget=smoke", "folder=mine", "trainer.progress=false"),
        ],
    }[module]
    root = str(Path(__file__).resolve().parents[2])
    ended = subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, "PYTHONPATH": root, "JAXTYPING_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"wants to import '{PAYLOAD}:Net'" in ended.stderr.splitlines()[-1]
    assert not (shared / "executed").exists()
