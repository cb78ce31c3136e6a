"""What README.md and docs/ say to type works: every command is run, every option is built.

Commands are run in order in one folder (`make trials`), because some use what others left. What
takes minutes as it stands gets the words of `ADDED` at its end.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmarks import run  # noqa: F401  (registers what configs refer to)
from hierdiff.codec import Pyramid
from hierdiff.command import plain_config
from hierdiff.methods import on_shapes
from hierdiff.metrics.extractors import extractors
from hierdiff.prepared import definite, method_node
from hierdiff.registry import build, check_node
from hierdiff.training import Recipe
from tests.data import formats
from tests.test_command import composed

ROOT = Path(__file__).resolve().parents[2]
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
HUB = (
    "python -m hierdiff.pretrained push mdm-critters OWNER/mdm-critters",
    "python -m hierdiff.pretrained fetch OWNER/mdm-critters",
)
LINES = {  # of the commands that are not run, and why
    ". .venv/bin/activate": "it changes the shell alone",
    "python -m benchmarks.evaluate images=samples.npz label=VAR data=folder data.root=PHOTOS "
    "data.resolution=256 stated.method=VAR stated.guidance=1.5 stated.steps=10 "
    "stated.source=https://arxiv.org/abs/2404.02905": "its images are of another model",
    "python -m benchmarks.evaluate images=samples.npz label=VAR protocol=fid50k_imagenet_256 "
    "stated.labels=random": "its images are of another model",
    "python -m benchmarks.evaluate images=RUN/samples/seed0/64.npz label=again data=... "
    "conditions=test": "its run is the reader's: tests/benchmarks/test_run.py measures one again",
    "torchrun --nproc_per_node=8 -m benchmarks.run method=mdm protocol=fid50k_imagenet_256 "
    "data=folder data.root=IMAGENET": "it takes eight devices, and files that are not here",
    "make search": "it takes two hours",
    "make study parts=critters:32:4e13:0,1,2": "it takes hours",
    "make study parts=critters:32:5e12:0,1,2": "it takes hours",
    "make study-samplers seeds=0": "its weights are of the line above",
    "make study-exposure": "its weights are of the first part",
    "python -m benchmarks.run experiment=study match.flops=1e13 method=mdm recipe=shared "
    "measure.samples=256 measure.curve.samples=0 folder=runs/recipes/mdm-shared": (
        "it takes five minutes"
    ),
    "python -m benchmarks.run experiment=study match.flops=1e13 method=cascaded "
    "method.split=[0.15,0.85] recipe=cdm measure.samples=256 measure.curve.samples=0 "
    "folder=runs/recipes/cascaded-cdm": "it takes ten minutes",
    "python -m benchmarks.run experiment=study match.flops=1e13 method=latent "
    "method.codec.checkpoint=runs/study/critters-32px-4e13/latent-s0/weights.safetensors "
    "recipe=ldm measure.samples=256 measure.curve.samples=0 folder=runs/recipes/latent-ldm": (
        "its autoencoder is of the first part"
    ),
    "python -m benchmarks.run experiment=study match.flops=4e13 method=mdm_haar label=mdm_haar "
    "folder=runs/methods/mdm_haar": "it takes ten minutes",
    "python -m benchmarks.run experiment=study match.flops=4e13 method=cascaded "
    "method.split=[0.15,0.85] recipe=cdm folder=runs/methods/cascaded-cdm": (
        "it takes twenty minutes"
    ),
    "python -m benchmarks.run experiment=study method=published match.flops=null "
    "measure.samples=256 label=cascaded-shared-ancestral-100 "
    "sampler.rule={name:ancestral,variance:small} sampler.steps=100 "
    "checkpoint=runs/recipes/cascaded-shared/weights.safetensors "
    "folder=runs/recipes-sampled/cascaded-shared-ancestral": "its weights are of the lines above",
    "python -m benchmarks.run experiment=study method=published match.flops=null "
    "measure.samples=256 label=cascaded-cdm-dpmpp-20 sampler.rule={name:dpmpp_2m} "
    "sampler.steps=20 checkpoint=runs/recipes/cascaded-cdm/weights.safetensors "
    "folder=runs/recipes-sampled/cascaded-cdm-dpmpp": "its weights are of the lines above",
    "python -m benchmarks.run experiment=[study,raphael] match.flops=4e13 label=raphael "
    "folder=runs/methods/raphael": "it takes ten minutes",
    "python -m benchmarks.run experiment=[study,sdxl] match.flops=4e13 "
    "method.codec.checkpoint=runs/study/critters-32px-4e13/latent-s0/weights.safetensors "
    "label=sdxl folder=runs/sdxl/sdxl": "it takes ten minutes",
    "python -m benchmarks.run experiment=[study,clips] match.flops=4e13 label=mdm_video "
    "folder=runs/clips/mdm_video": "it takes ten minutes",
    "python -m benchmarks.run experiment=study data=clips data.resolution=32 method=end_to_end "
    "match.flops=4e13 folder=runs/stills/end_to_end": "it takes ten minutes",
    "python -m benchmarks.run experiment=[study,clips] method=end_to_end_video match.flops=4e13 "
    "denoiser.weights=runs/stills/end_to_end/weights.safetensors "
    "label=end_to_end_video-from-stills folder=runs/clips/end_to_end_video-from-stills": (
        "its weights are of the line above"
    ),
    "python -m benchmarks.run experiment=study data=clips data.resolution=16 method=end_to_end "
    "denoiser=custom denoiser.name=space_time_unet denoiser.width=64 denoiser.multiples=[1,1.5] "
    "denoiser.blocks=1 denoiser.attention=[0,1] denoiser.heads=3 denoiser.groups=8 "
    "match.flops=1e13 folder=runs/stills/sixteen": "it takes five minutes",
    "python -m benchmarks.run experiment=[study,make_a_video] match.flops=4e13 "
    "+method.stages.0.denoiser.weights=runs/stills/sixteen/weights.safetensors "
    "label=make_a_video folder=runs/clips/make_a_video": "its weights are of the line above",
    "make study parts=elpv:32:4e13:0": "it takes hours",
    "make study parts=critters:64:8e13:0": "it takes hours",
    "make compare methods=mdm,cascaded,end_to_end,latent,unclip,r3gan runs=runs/text "
    "args=experiment=text spec=examples/text.yaml": "it takes an hour",
    "python -m benchmarks.run budget=compare experiment=text method=distilled "
    "of=runs/text/compare/mdm steps=[8,4,2,1] folder=runs/text/compare/distilled": (
        "its teacher is of the line above"
    ),
    "make test": "it is what runs this test, here on one file",
    **dict.fromkeys(HUB, "the hub is reached by its owner alone: tests/pretrained has a fake"),
}
ADDED = {  # to the first of these that a command begins with
    "make bench": ["args=budget=smoke"],
    "make test": ["workers=1", "args=tests/test_levels.py"],
    "make compare": [
        "args=match.flops=2e11 measure.samples=16 measure.curve.samples=16 trainer.snapshots=1"
    ],
    "make": [],
    "python -m benchmarks.scaling": ["budget=smoke", "resolutions=[32]"],
    "python -m benchmarks.run": ["budget=smoke"],
    "python -m hierdiff.train": ["budget=smoke"],
    "python": [],
}
NEEDS = {  # what a command needs that is not here: it is composed alone
    "data=fluent_emoji": "its images come from a package registry (hierdiff.fetch)",
    "protocol=": "its files are not here",
    "data=elpv": "its images come from a package (elpv-dataset), which may not be installed",
    "data=cifar": "its images are an archive that is not here",
    "data=tiny_imagenet": "its images are an archive that is not here",
}


def pages(nav: Any) -> Iterator[Path]:
    """Files that the site shows, in its order."""
    for entry in nav:
        for place in entry.values():
            if isinstance(place, list):
                yield from pages(place)
            elif (path := ROOT / "docs" / place).is_file():  # others are made with the site
                yield path


TEXTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *pages(NAV))}


def blocks(language: str, *, of: Iterable[Path] = TEXTS) -> list[str]:
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [block for path in of for block in fence.findall(TEXTS[path])]


def commands(*, of: Iterable[Path] = TEXTS) -> list[str]:
    """Lines of the shell blocks without their comments, each once."""
    texts = [re.sub(r"\\\n\s*", "", text) for text in blocks("sh", of=of)]  # one line, not several
    lines = [line.partition("#")[0].strip() for text in texts for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


def on_published_files() -> list[str]:
    """Commands on networks of others, and on what they were converted to."""
    page = commands(of=[ROOT / "docs" / "checkpoints.md"])
    files = re.compile(r"hierdiff\.convert |method=published |checkpoint=mdm_256\.safetensors")
    return [*page, *filter(files.search, commands())]


# tests/interop, tests/training and tests/benchmarks run them on tiny files of the same layout
LINES |= dict.fromkeys(on_published_files(), "the released files are not here")
LINES |= {
    line: "it takes several devices"
    for line in commands()
    if line.startswith(("torchrun ", "sbatch ")) and line not in LINES
}


def words_of(command: str) -> list[str]:
    """A command as it is run here."""
    start = next(start for start in ADDED if command.startswith(start))
    added = [] if "budget=" in command or "--dry-run" in command else ADDED[start]
    program, *words = [*shlex.split(command), *added]
    if program == "python":
        return [sys.executable, *words]
    assert program == "make"
    here = ["-f", str(ROOT / "Makefile"), f"bin={Path(sys.executable).parent}", "installed="]
    return ["make", *here, *words]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with what the pages take for granted: images, and a network."""
    folder = tmp_path_factory.mktemp("documentation")
    (network,) = blocks("python", of=[ROOT / "docs" / "howto" / "denoiser.md"])
    (folder / "my_nets.py").write_text(network, encoding="utf-8")
    generator, *_ = blocks("python", of=[ROOT / "docs" / "howto" / "evaluate.md"])
    (folder / "my_model.py").write_text(generator, encoding="utf-8")
    for name in ("cats", "dogs"):
        (folder / "IMAGES" / name).mkdir(parents=True)
        for i in range(48):
            image = Image.effect_noise((40, 40), 60).convert("RGB")
            image.putpixel((0, 0), (i, 0, 0))
            image.save(folder / "IMAGES" / name / f"{i}.png")
    content = {key: formats.png(i, (40, 40)) for i, key in enumerate(formats.files(96))}
    formats.write_shards(folder / "SHARDS", content)
    for name in ("TABLES", "FOLDER"):
        formats.write_parquet(folder / name, content)
    for name in ("results", "examples"):
        (folder / name).symlink_to(ROOT / name)
    yield folder


@pytest.mark.trial
@pytest.mark.parametrize("command", commands())
def test_every_command_runs(command: str, place: Path):
    if command in LINES and command != "make test":
        pytest.skip(LINES[command])
    absent = [why for word, why in NEEDS.items() if word in command]
    if absent:
        words = [word for word in shlex.split(command)[3:] if word != "-m"]
        assert composed(*words)
        pytest.skip(absent[0])
    if "runs/mdm-critters-default" in command:  # of `make bench`, which ran with a smaller budget
        shutil.copytree(place / "runs/mdm-critters-smoke", place / "runs/mdm-critters-default")
    ended = subprocess.run(
        words_of(command),
        cwd=ROOT if command == "make test" else place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAXTYPING_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    assert "Traceback" not in ended.stderr


def test_every_command_is_known_here():
    found = commands()
    assert len(found) > 25
    for command in found:
        assert command in LINES or words_of(command)
    for start in (*LINES, *ADDED, *NEEDS):
        assert any(start in command for command in found), f"{start} is shown no longer"


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_that_is_shown_runs(code: str, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def test_the_toml_that_is_shown_is_an_entry_point():
    (text,) = blocks("toml")
    assert "hierdiff.plugins" in tomllib.loads(text)["project"]["entry-points"]


# -- options ---------------------------------------------------------------------------------------

OPTION = re.compile(r"[a-z_]+(?:@[a-z_.]+)?(?:[./][a-z0-9_]+)*=\S.*", re.DOTALL)
WORDS = re.compile(r"(?<!\S)(?:[a-z_@./0-9]+=\S+ ?)+")
METHODS = (
    *("mdm", "cascaded", "latent", "sdxl", "end_to_end", "simple_diffusion", "chen", "unclip"),
    *("r3gan", "mdm_video", "end_to_end_video experiment=clips", "end_to_end experiment=raphael"),
    "latent method.schedule={name:scaled_linear_beta}",
)
PLACEHOLDERS = {
    "package.module:Class": "tests.trials.test_documentation:Own",
    "my_codec": "tests.trials.test_documentation:Own",
    "my_nets:MyNet": "unet",
    "my_net": "unet",
    "devices=N": "devices=2",
    "trainer.steps=N": "trainer.steps=9",
}
ELSEWHERE = (  # words of other commands, and options of a part that is named beside them
    *("trust=", "labels=", "checkpoint=", "methods=", "out=", "format=", "allow_download="),
    *("resolutions=", "weights=", "vgg=", "dataset=", "split=", "conditions=", "negative="),
    *("images=", "recipe=NAME", "sampler=adm", "sampler=dit", "method.objective.vlb="),
    *(
        "experiment=reproduce/",
        "denoiser=dit_s_2",
        "sampler.grid.respacing=",
        "method.codec.perceptual.vgg=",
    ),
    *("gpus=", "gpu.memory=", "mfu=", "check=", "hydra.", "download=", "row_group_size="),
    *("trainer.shard_over=", "trainer.async_checkpoints=", "data.text.read_padding=", "heads="),
    # without a denoiser of their own: tests/methods/test_strangers.py and tests/training run them
    *("method=custom", "method=published", "method=distilled", "method.lr=", "method.guidance="),
    *("stated.", "given=", "method.embedding={name:clip", "args=", "runs=", "spec=", "between="),
)


class Own(Pyramid):
    """A codec of a user's own."""

    def __init__(self, *, resolution: int, channels: int = 3, width: int = 1):
        super().__init__([resolution], channels)


def spans() -> list[str]:
    """Inline code of the pages and comments of configs that is made of options, each once."""
    prose = "\n\n".join(TEXTS.values())
    prose = re.sub(r"^```.*?^```", "", prose, flags=re.MULTILINE | re.DOTALL)
    found = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    for command in commands():
        found += [" ".join(map(shlex.quote, shlex.split(command)[3:]))]
    for path in sorted((ROOT / "hierdiff" / "configs").rglob("*.yaml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found += WORDS.findall(line.partition("#")[2].replace("'", ""))
    spans = [re.sub("^(python -m benchmarks.run )?(-m )?", "", span) for span in found]
    words = [shlex.split(span.rstrip(" ,;:).")) for span in spans if "=" in span]
    kept = [one for one in words if all(OPTION.fullmatch(word) for word in one)]
    kept = [one for one in kept if not any(word.startswith(ELSEWHERE) for word in one)]
    return list(dict.fromkeys(" ".join(map(shlex.quote, one)) for one in kept if one))


FACTS = {"channels": 3, "classes": 2, "text_width": 16, "text_length": 4}


def tried(words: list[str], method: str) -> None:
    """Composed, its method and extractor built on shapes, its options known."""
    given = any(word.startswith(("method=", "experiment=raphael")) for word in words)
    chosen = [] if given else f"method={method}".split()
    sweep = re.compile(
        r"^((?:method|experiment)=[a-z_]+|[a-z_.]+=\[[^]]*\]|[a-z_.]+=[0-9.e+-]+),.*"
    )
    first = [sweep.sub(r"\1", word) for word in words]
    cfg = composed(*chosen, *first)
    groups = ("method", "denoiser", "sampler", "measure")
    options = {k: plain_config(cfg[k]) for k in groups if k in cfg}
    build(Recipe, definite(plain_config(cfg["trainer"])), at="trainer")
    on_shapes(method_node(options), offered=FACTS)
    node = options["measure"]["extractor"]
    check_node(extractors.get(node["name"]), node, "extractor")


@pytest.mark.slow
@pytest.mark.parametrize("span", spans())
def test_every_option_that_is_named_composes_and_builds(span: str):
    for placeholder, name in PLACEHOLDERS.items():
        span = span.replace(placeholder, name)
    errors = []
    for method in METHODS:
        try:
            tried(shlex.split(span), method)
            return
        except (ValueError, TypeError) as error:
            errors.append(f"{method}: {error}")
    pytest.fail("\n".join(errors))


def test_the_documented_options_are_found():
    found = "\n".join(spans())
    for one in ("measure.extractor=", "match.flops=", "method.codec.checkpoint=", "denoiser.name="):
        assert one in found
