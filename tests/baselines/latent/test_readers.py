"""Published latent diffusion becomes a method that computes what its authors' does."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from baselines.latent.autoencoder import ConvolutionalAutoencoder
from baselines.latent.readers.diffusers import notes, sampling
from hierdiff import convert as command
from hierdiff.batch import Cond
from hierdiff.interop import autoencoder, diffusers
from hierdiff.interop.conversion import convert
from hierdiff.interop.published import readers, shapes_of
from hierdiff.methods import Request
from hierdiff.noise import from_generator, from_tensors, generator_of
from hierdiff.process import VariancePreserving
from hierdiff.samplers.grids import grids
from hierdiff.schedules import Cosine
from hierdiff.training import load_method
from tests.interop import test_published_sampling as trajectories
from tests.interop.official_unet import unet
from tests.interop.test_published_sampling import theirs
from tests.training import runs

FOLDER = Path(__file__).parents[2] / "reference_data"
START = "weights."


@cache
def reference(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict]:
    """Weights, other tensors, metadata."""
    with safe_open(FOLDER / f"{name}_tiny.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    weights = {k.removeprefix(START): v for k, v in tensors.items() if k.startswith(START)}
    return weights, {k: v for k, v in tensors.items() if k not in weights}, metadata


def released(folder: Path, name: str) -> Path:
    """The file or folder that the project would have released."""
    weights, _, metadata = reference(name)
    if not name.startswith("diffusers"):
        path = folder / f"{name}.safetensors"
        save_file(weights, path)
        return path
    return part(folder / name, weights, json.loads(metadata["config"]))


def part(folder: Path, weights, config, name="config.json") -> Path:
    """A folder of diffusers with weights and config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    if weights:
        save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    return folder


def run(path: Path, *words: str) -> Path:
    """`python -m hierdiff.convert` of a file."""
    out = path.parent / "ours" / f"{path.stem}.safetensors"
    command.main([str(path), *words, "-o", str(out)])
    return out


def back(ours: Path, reader: str, end: str = ".safetensors") -> Path:
    out = ours.with_name(f"official{end}")
    command.main([str(ours), "--to", reader, "-o", str(out)])
    return out


def same(found, target) -> None:
    assert found.keys() == target.keys()
    for name, tensor in target.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def relative(found: torch.Tensor, target: torch.Tensor) -> float:
    return float((found - target).detach().abs().max() / target.abs().max())


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory) -> Path:
    return run(released(tmp_path_factory.mktemp("kl"), "kl_autoencoder"), "resolution=32")


def test_an_autoencoder_gives_the_published_moments_and_images(first_stage):
    tensors = reference("kl_autoencoder")[1]
    codec = load_method(first_stage)[0].stages[1].codec
    mean, logvar = codec.moments(tensors["images"]).chunk(2, dim=1)
    assert relative(mean, tensors["mean"]) < 1e-5
    assert relative(logvar, tensors["logvar"]) < 1e-5
    images = codec.network.decode(tensors["mean"])
    assert relative(images, tensors["reconstruction_from_mean"]) < 1e-5
    with pytest.raises(ValueError, match="never measured"):
        codec.check()
    same(load_file(back(first_stage, "ldm_autoencoder")), reference("kl_autoencoder")[0])


@pytest.mark.parametrize("name", ["dit", "sit"])
def test_a_transformer_with_its_autoencoder(tmp_path, first_stage, name):
    """DiT's forward is the published one; SiT's names are DiT's and its prediction minus ours."""
    weights, tensors, _ = reference("dit")
    ours = run(released(tmp_path, "dit"), "heads=4", f"autoencoder={first_stage}", "--as", name)
    method, config = load_method(ours)
    stage = method.stages[1]
    stage.codec.check()
    assert float(stage.codec.statistics.std[0]) == pytest.approx(1 / 0.18215)
    t = (tensors["t"] + 1).double() / 1000
    labels = tensors["labels"]
    cond = stage.denoiser.prepare(Cond(labels=torch.where(labels == 10, -1, labels)))
    if name == "dit":
        log_snr = stage.process.log_snr(t)
        with torch.no_grad():
            out = stage.denoiser((tensors["x_t"],), log_snr, cond)
        found = torch.cat([out.levels[0], out.variance[0]], dim=1)
        assert relative(found, tensors["output"]) < 1e-5
    else:
        assert torch.equal(
            stage.denoiser.head.weight, -weights["final_layer.linear.weight"].float()
        )
        assert stage.objective.parameterization.prediction == "u"
    assert config["class_names"] == [str(i) for i in range(10)]
    images = method.sample(Request(2, noise=from_generator(generator_of(0)), steps=2))
    assert images[32].shape == (2, 3, 32, 32)
    same(load_file(back(ours, name)), weights)


def test_the_published_trajectory_of_dit_from_a_converted_file(tmp_path, first_stage):
    """Its 250-step sampler at 8 steps, guided by 1.5 in 3 channels, as NumPy does it."""
    ours = run(released(tmp_path, "dit"), "heads=4", f"autoencoder={first_stage}", "--as", "dit")
    stage = load_method(ours)[0].stages[1].double()
    plan = stage.sampling
    assert (plan.steps, plan.guidance, plan.channels) == (250, 1.5, 3)
    draws = trajectories.noises((2, 4, 8, 8), 9)
    states = []
    stage.run(
        Request(
            2,
            Cond(labels=torch.tensor([3, 8])),
            noise=from_tensors(draws),
            steps=8,
            watch=lambda i, s, x: states.append(x[0].numpy()),
        )
    )
    model = trajectories.Guided(trajectories.transformer(), 1.5, 3)
    first, *rest = (draw.numpy() for draw in draws)
    wanted = theirs.ancestral(
        model, first, trajectories.ALPHA_SQUARED, trajectories.EIGHT, iter(rest)
    )
    for found, state in zip(states, wanted, strict=True):
        assert np.abs(found - state).max() <= 1e-7 * np.abs(state).max()


def test_a_transformer_of_two_projects_is_asked_about(tmp_path, capsys):
    path = released(tmp_path, "dit")
    with pytest.raises(SystemExit):
        run(path)
    assert "may be of dit or sit: choose one, --as dit" in capsys.readouterr().err
    for words, message in ((["heads=4"], "autoencoder=FILE"), ([], "say heads=N")):
        with pytest.raises(SystemExit):
            run(path, *words, "--as", "dit")
        assert message in capsys.readouterr().err


def whole(channels: int = 3, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A checkpoint of latent diffusion: the reference U-Net, an autoencoder, betas."""
    torch.manual_seed(0)
    network = ConvolutionalAutoencoder(
        width=32, multiples=[1, 2], blocks=1, resolution=16, latent_channels=channels
    )
    first = autoencoder.official(network.state_dict())
    unet = reference("ldm_unet")[0]
    return {
        **{f"first_stage_model.{name}": tensor for name, tensor in first.items()},
        **{f"model.diffusion_model.{name}": tensor for name, tensor in unet.items()},
        "betas": torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2,
        **more,
    }


def test_a_whole_checkpoint_of_latent_diffusion(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(whole(scale_factor=torch.tensor(0.25)), path)
    method, config = load_method(run(path, "heads=1", "resolution=16", "text_length=3"))
    stage, tensors = method.stages[1], reference("ldm_unet")[1]
    assert float(stage.codec.statistics.std[0]) == 4 and config["facts"]["text_width"] == 24
    schedule = config["method"]["schedule"]
    assert (schedule["start"], schedule["end"]) == (0.0015, 0.0195)
    tokens = tensors["context"]
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    t = (tensors["t"] + 1).double() / 1000
    with torch.no_grad():
        cond = stage.denoiser.prepare(Cond(tokens=tokens, mask=mask))
        out = stage.denoiser((tensors["x_t"],), stage.process.log_snr(t), cond)
    assert relative(out.levels[0], tensors["output"]) < 1e-5
    request = Request(
        2, Cond(tokens=tokens, mask=mask), noise=from_generator(generator_of(0)), steps=2
    )
    assert method.sample(request)[16].shape == (2, 3, 16, 16)


TINY = [
    *("resolution=16", "pooled=5", "fourier=4", "head_width=4", "groups=4", "text_length=3"),
    "schedule={name: linear_beta}",
]


def sdxl(first: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A file of SDXL: a U-Net, an autoencoder, text encoders. first: seed of the autoencoder."""
    torch.manual_seed(first)
    network = ConvolutionalAutoencoder(
        width=32, multiples=[1, 2], blocks=1, resolution=16, latent_channels=4
    )
    own = autoencoder.official(network.state_dict())
    encoders = {"0.transformer.text_model.final_layer_norm.bias": 7, "1.model.text_projection": 5}
    return {
        **{f"first_stage_model.{name}": tensor for name, tensor in own.items()},
        **{f"model.diffusion_model.{name}": tensor for name, tensor in more.items()},
        **{f"conditioner.embedders.{name}": torch.ones(n) for name, n in encoders.items()},
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny base that was converted, with the weights of diffusers' reference."""
    path = tmp_path_factory.mktemp("sdxl") / "base.safetensors"
    weights = {name: tensor.float() for name, tensor in reference("diffusers_unet_sdxl")[0].items()}
    save_file(sdxl(0, **diffusers.unet(weights)), path)
    return run(path, *TINY)


def refiner(folder: Path, context: int = 5) -> Path:
    shapes = unet(
        channels=4,
        width=8,
        multiples=(1, 2),
        blocks=1,
        attention=(0, 1),
        context=context,
        linear=True,
        depth=2,
        told=5 + 5 * 4,
    )
    torch.manual_seed(1)
    path = folder / "refiner.safetensors"
    save_file(sdxl(1, **{name: torch.randn(shape) / 9 for name, shape in shapes.items()}), path)
    return path


def told_of(tensors, **more: float) -> Cond:
    names = ("original_height", "original_width", "crop_top", "crop_left")
    names += ("target_height", "target_width")
    scalars = dict(zip(names, tensors["time_ids"].unbind(1), strict=True))
    return Cond(
        tokens=tensors["context"],
        mask=torch.ones(2, 3, dtype=torch.bool),
        scalars=scalars | {name: torch.full((2,), value) for name, value in more.items()},
        vectors={"pooled_text": tensors["pooled"]},
    )


def test_a_file_of_sdxl_computes_what_diffusers_does(base):
    method, config = load_method(base)
    stage, tensors = method.stages[1], reference("diffusers_unet_sdxl")[1]
    t = (tensors["t"] + 1).double() / 1000
    with torch.no_grad():
        cond = stage.denoiser.prepare(told_of(tensors))
        out = stage.denoiser((tensors["x_t"],), stage.process.log_snr(t), cond).levels[0]
    assert relative(out, tensors["output"]) < 1e-5
    assert float(stage.codec.statistics.std[0]) == pytest.approx(1 / 0.13025)
    assert config["text"]["pooled"] == 1 and config["facts"]["vectors"] == {"pooled_text": 5}
    given = Cond(*(getattr(told_of(tensors), name) for name in ("labels", "tokens", "mask")))
    request = Request(
        2,
        replace(given, vectors=told_of(tensors).vectors),
        noise=from_generator(generator_of(0)),
        steps=2,
    )
    told = dict.fromkeys(("original_height", "original_width", "target_height", "target_width"), 16)
    assert method.assumed == {**told, "crop_top": 0, "crop_left": 0}
    assert method.sample(request)[16].shape == (2, 3, 16, 16)


def test_a_refiner_of_sdxl_goes_on_behind_its_base(base):
    """It reads the second encoder's part of the text, and its score; the base is as it was."""
    ours = run(refiner(base.parents[1]), *TINY, f"base={base}")
    method, tensors = load_method(ours)[0], reference("diffusers_unet_sdxl")[1]
    alone, weights = load_file(base), load_file(ours)
    assert all(torch.equal(weights[name], tensor) for name, tensor in alone.items())
    network = method.stages[2].denoiser
    assert network.reads.scalars ^ method.stages[1].denoiser.reads.scalars == {
        *("aesthetic_score", "target_height", "target_width")
    }
    assert method.assumed["aesthetic_score"] == 6 and method.stages[2].bridge.start == 0.2
    cond = told_of(tensors, aesthetic_score=6.0)

    def output(tokens):
        with torch.no_grad():
            prepared = network.prepare(replace(cond, tokens=tokens))
            return network((tensors["x_t"],), torch.zeros(2, 1), prepared).levels[0]

    first, second = cond.tokens.clone(), cond.tokens.clone()
    first[..., :7], second[..., 7:] = 0, 0
    assert torch.equal(output(cond.tokens), output(first))
    assert not torch.equal(output(cond.tokens), output(second))
    request = Request(2, replace(cond, scalars={}), noise=from_generator(generator_of(0)), steps=5)
    assert torch.isfinite(method.sample(request)[16]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "convert that first, then give what came out as base=FILE"),
        (["base={file}"], "is no base of SDXL without a refiner"),
        (["base={base}", "pooled=4"], "are not a pooled text of 4 and 4 features"),
    ],
)
def test_a_refiner_without_its_base_is_one_sentence(base, first_stage, capsys, words, message):
    words = [word.format(base=base, file=first_stage) for word in words]
    with pytest.raises(SystemExit):
        run(refiner(base.parents[1]), *TINY, *words)
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(refiner(base.parents[1], context=13), *TINY, f"base={base}")
    assert "reads a text of 13 channels and the base one of 12" in capsys.readouterr().err


def test_a_table_of_classes_beside_the_network_is_read_as_tokens(tmp_path):
    """The context of LDM-4 on ImageNet; the last row of its table is no class."""
    path = tmp_path / "model.safetensors"
    table = torch.randn(11, 24, generator=torch.Generator().manual_seed(0))
    save_file(whole(**{"cond_stage_model.embedding.weight": table}), path)
    method, config = load_method(run(path, "heads=1", "resolution=16", "null_class=true"))
    network, tensors = method.stages[1].denoiser, reference("ldm_unet")[1]
    assert (config["facts"]["classes"], config["facts"]["text_width"]) == (10, 0)
    assert torch.equal(network.label.weight, table.roll(1, 0))
    schedule = method.stages[1].process.schedules[0]
    log_snr = schedule((tensors["t"] + 1).double() / 1000)[:, None]

    def output(labels):
        with torch.no_grad():
            cond = network.prepare(Cond(labels=torch.tensor(labels)))
            return network((tensors["x_t"],), log_snr, cond).levels[0]

    words = load_method(run(text_only(tmp_path), "heads=1", "resolution=16", "text_length=1"))[0]
    with torch.no_grad():
        tokens, mask = table[[3, 10]][:, None], torch.ones(2, 1, dtype=torch.bool)
        denoiser = words.stages[1].denoiser
        out = denoiser((tensors["x_t"],), log_snr, denoiser.prepare(Cond(tokens=tokens, mask=mask)))
    torch.testing.assert_close(output([3, -1]), out.levels[0], rtol=1e-5, atol=1e-5)


def text_only(folder: Path) -> Path:
    path = folder / "text.safetensors"
    save_file(whole(), path)
    return path


@pytest.mark.parametrize(
    ("state", "words", "message"),
    [
        (whole(4), ["heads=1", "resolution=16"], "denoises 3 channels, and the latents.*have 4"),
        (whole(), ["resolution=16"], "say heads=N"),
        (whole(), ["heads=1"], "say resolution=N"),
        (whole(), ["heads=1", "resolution=15"], "side 15 is not a multiple of 2"),
        (
            whole(betas=torch.linspace(1e-4, 0.02, 1000)),
            ["heads=1", "resolution=16"],
            "betas of the file are not those of",
        ),
    ],
)
def test_what_a_checkpoint_does_not_show_is_asked_for(tmp_path, capsys, state, words, message):
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    with pytest.raises(SystemExit):
        run(path, *words)
    assert re.search(message, capsys.readouterr().err)


def test_a_folder_of_an_autoencoder_of_diffusers(tmp_path):
    weights, tensors, metadata = reference("diffusers_autoencoder")
    ours = run(released(tmp_path, "diffusers_autoencoder"))
    codec = load_method(ours)[0].stages[1].codec
    codec.check()
    z = codec.encode(tensors["images"])[0]
    assert relative(z, 0.18215 * tensors["mean"]) < 1e-5
    folder = back(ours, "diffusers_autoencoder", "")
    same(load_file(folder / "diffusion_pytorch_model.safetensors"), weights)
    config = json.loads((folder / "config.json").read_text())
    theirs = json.loads(metadata["config"])
    assert {name: theirs[name] for name in config} == config


def test_a_pipeline_of_images_ends_where_that_of_diffusers_does(tmp_path):
    weights, tensors, metadata = reference("diffusers_unet")
    folder = tmp_path / "pipeline"
    part(folder / "unet", weights, json.loads(metadata["config"]))
    part(folder / "scheduler", {}, json.loads(metadata["scheduler"]), "scheduler_config.json")
    method, config = load_method(run(folder))
    assert config["method"]["name"] == "end_to_end"
    states = []
    method.stages[0].run(
        Request(
            2,
            noise=from_tensors([tensors["noise"]]),
            steps=5,
            watch=lambda i, s, x: states.append(x[0]),
        )
    )
    torch.testing.assert_close(states[-1], tensors["ddim5"], rtol=0, atol=1e-4)


def test_a_pipeline_in_latents_needs_its_autoencoder_and_may_carry_it(tmp_path, capsys):
    folder = tmp_path / "pipeline"
    for name, kind in (("unet", "diffusers_unet_condition"), ("vae", "diffusers_autoencoder")):
        weights, _, metadata = reference(kind)
        part(folder / name, weights, json.loads(metadata["config"]))
    scheduler = json.loads(reference("diffusers_unet")[2]["scheduler"])
    part(folder / "scheduler", {}, scheduler, "scheduler_config.json")
    method, config = load_method(run(folder, "text_length=5"))
    stage, tensors = method.stages[1], reference("diffusers_unet_condition")[1]
    stage.codec.check()
    assert config["text"]["name"] == "clip" and stage.sampling.guidance == 7.5
    tokens = tensors["context"]
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    request = Request(
        2, Cond(tokens=tokens, mask=mask), noise=from_generator(generator_of(0)), steps=2
    )
    assert method.sample(request)[16].shape == (2, 3, 16, 16)
    for file in (folder / "vae").iterdir():
        file.unlink()
    with pytest.raises(SystemExit):
        run(folder)
    assert "autoencoder=FILE" in capsys.readouterr().err


def test_a_pipeline_of_dit_has_the_options_of_dit(tmp_path, first_stage):
    weights, _, metadata = reference("diffusers_dit")
    folder = tmp_path / "pipeline"
    part(folder / "transformer", weights, json.loads(metadata["config"]))
    scheduler = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    scheduler["prediction_type"] = "v_prediction"
    part(folder / "scheduler", {}, scheduler, "scheduler_config.json")
    stage = load_method(run(folder, f"autoencoder={first_stage}"))[0].stages[1]
    assert stage.denoiser.learns_variance and stage.sampling.channels == 3
    assert stage.objective.parameterization.prediction == stage.objective.loss_space == "v"


@pytest.mark.parametrize(
    ("name", "limit", "end"),
    [
        ("DDIMScheduler", 1.0, 0.0),
        ("DDPMScheduler", 1.0, 0.0),
        ("PNDMScheduler", None, 0.001),
        ("EulerDiscreteScheduler", None, 0.0),
    ],
)
def test_what_a_scheduler_does_not_say_is_as_in_its_code(name, limit, end):
    plan = sampling({"_class_name": name}, "text")
    threshold = {"name": "none"} if limit is None else {"name": "static", "limit": limit}
    assert plan["threshold"] == threshold and plan["grid"]["end"] == end
    assert bool(notes({"_class_name": name})) == (name[:3] not in ("DDI", "DDP"))


def test_clipping_and_spacing_of_a_scheduler_are_read():
    said = {"clip_sample_range": 4.0, "timestep_spacing": "linspace"}
    plan = sampling({"_class_name": "DDIMScheduler", **said}, "text")
    assert plan["threshold"] == {"name": "static", "limit": 4.0}
    times = grids.build(plan["grid"])(5, VariancePreserving((Cosine(),)))
    entries = np.linspace(0, 999, 5).round() + 1
    np.testing.assert_allclose(times[:-1].flip(0), entries / 1000)


def test_taesd_from_its_folder_and_from_its_two_files(tmp_path, capsys):
    weights, tensors, _ = reference("diffusers_taesd")
    ours = run(released(tmp_path, "diffusers_taesd"), "resolution=32")
    codec = load_method(ours)[0].stages[1].codec
    codec.check()
    assert relative(codec.encode(tensors["images"])[0], tensors["latents"]) < 1e-5
    files = {"encoder": {}, "decoder": {}}
    for name, tensor in weights.items():
        half, _, rest = name.partition(".layers.")
        layer, _, leaf = rest.partition(".")
        files[half][f"{int(layer) + (half == 'decoder')}.{leaf}"] = tensor
    for half, state in files.items():
        save_file(state, tmp_path / f"taesd_{half}.safetensors")
    encoder = tmp_path / "taesd_encoder.safetensors"
    other = run(tmp_path / "taesd_decoder.safetensors", "resolution=32", f"encoder={encoder}")
    same(load_file(other), load_file(ours))
    with pytest.raises(SystemExit):
        run(encoder)
    assert "give that of the decoder as FILE" in capsys.readouterr().err


@pytest.mark.slow
def test_samples_are_drawn_from_the_command_line(tmp_path, first_stage):
    ours = run(released(tmp_path, "dit"), "heads=4", f"autoencoder={first_stage}", "--as", "dit")
    out = tmp_path / "samples"
    words = [f"checkpoint={ours}", "n=2", "labels=[3,8]", "steps=2", f"out={out}"]
    code, said = runs.command("hierdiff.sample", tmp_path, words)
    assert code == 0, said
    listed = json.loads((out / "samples.json").read_text())["images"]
    assert [one["class_index"] for one in listed] == [3, 8]
    assert all((out / file).is_file() for one in listed for file in one["files"])


TABLES = {  # what a file of each format has, and who recognises it
    "kl_autoencoder": ["ldm_autoencoder"],
    "dit": ["dit", "sit"],
    "ldm_unet": ["ldm"],
    "diffusers_autoencoder": ["diffusers_autoencoder"],
    "diffusers_taesd": ["taesd"],
    "mdm_two_level": ["mdm"],
    "sdxl": ["sdxl"],
}


def tables() -> dict[str, dict[str, torch.Tensor]]:
    found = {name: reference(name)[0] for name in TABLES if name not in ("mdm_two_level", "sdxl")}
    mdm = load_file(FOLDER / "mdm_two_level.safetensors")
    found["mdm_two_level"] = {
        name.removeprefix(START): tensor for name, tensor in mdm.items() if name.startswith(START)
    }
    found["whole"] = whole()
    found["sdxl"] = sdxl(0, **diffusers.unet(reference("diffusers_unet_sdxl")[0]))
    for name, kind in (("unet", "unet"), ("transformer", "dit")):
        state = reference(f"diffusers_{kind}")[0]
        found[f"pipeline of a {name}"] = {f"{name}/{key}": one for key, one in state.items()}
    return found


@pytest.mark.parametrize("name", tables())
def test_no_format_is_taken_for_another(name):
    shapes = shapes_of(tables()[name])
    known = [one for one in readers if readers.build({"name": one}).recognises(shapes, {})]
    expected = TABLES.get(name) or (["ldm"] if name == "whole" else ["diffusers"])
    assert known == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kl_autoencoder", {"resolution": 32}),
        ("dit", {"name": "dit", "heads": 4}),
        ("ldm_unet", {"heads": 1, "resolution": 16}),
        ("diffusers_autoencoder", {}),
        ("diffusers_taesd", {}),
    ],
)
def test_a_file_without_any_one_tensor_is_refused(tmp_path, first_stage, name, words):
    """Whichever tensor is missing, in a sentence and not by an accident of Python."""
    weights, metadata = reference(name)[0], reference(name)[2]
    if name in ("dit", "ldm_unet"):
        words = {**words, "autoencoder": str(first_stage)}
    for gone in sorted(weights)[:: max(1, len(weights) // 4)]:
        rest = {key: tensor for key, tensor in weights.items() if key != gone}
        if name.startswith("diffusers"):
            path = part(tmp_path / "cut", rest, json.loads(metadata["config"]))
        else:
            path = tmp_path / "cut.safetensors"
            save_file(rest, path)
        with pytest.raises(ValueError):
            convert(path, words)
