"""How cost grows with the side: exponents are known answers, and a run goes on where it stopped."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks import sides
from benchmarks.sides import (
    ScalingSettings,
    case_of,
    exponent,
    exponent_text,
    exponents,
    facts_of,
    scaling_settings,
)
from hierdiff.results.cost import Cost


def row(name, side, value, **more):
    return {
        "method": name,
        "resolution": side,
        **dict.fromkeys(sides.QUANTITIES, value),
        **more,
    }


@pytest.mark.parametrize("power", [-1.0, 0.0, 2.0, 3.5])
def test_a_power_law_gives_its_exponent_without_error(power):
    sides = [32, 64, 128, 256]
    slope, error = exponent(sides, [5 * side**power for side in sides])
    assert slope == pytest.approx(power, abs=1e-12) and error == pytest.approx(0, abs=1e-12)


def test_the_error_is_that_of_least_squares():
    """Residuals +-d about a line through three equidistant points: slope and error in hand."""
    step, d = math.log(2), 0.1
    values = [math.exp(y) for y in (0 + d, 2 * step - 2 * d, 4 * step + d)]
    slope, error = exponent([1, 2, 4], values)
    assert slope == pytest.approx(2)
    assert error == pytest.approx(math.sqrt(6 * d**2 / 1 / (2 * step**2)))


def test_two_points_have_no_error_and_one_has_no_exponent():
    assert exponent([1, 2], [1, 4]) == (pytest.approx(2), None)
    assert exponent([1], [1]) is None
    assert exponent([1, 2], [0.0, 4]) is None  # memory below what the process had anyway
    assert [exponent_text(fit) for fit in (None, (2, None), (2, 0.25))] == [
        "–",
        "2.00",
        "2.0 ± 0.2",
    ]


def test_a_failure_is_no_point_of_a_fit():
    rows = [row("a", 1, 1.0), row("a", 2, 4.0)]
    rows.append({"method": "a", "resolution": 4, "failure": "out of memory at batch 1"})
    assert exponents(rows)["a"]["seconds"] == "2.00"


def test_the_command_line_names_methods_resolutions_and_options():
    made = scaling_settings(
        ["method=mdm,rin", "resolutions=[64,32]", "folder=/x", "sampler.steps=3"]
    )
    assert (made.methods, made.resolutions) == (("mdm", "rin"), (32, 64))
    assert (str(made.folder), made.options) == ("/x", ("sampler.steps=3",))
    usual = scaling_settings([])
    assert {"mdm", "cascaded", "latent", "rin"} <= set(usual.methods)
    assert usual.resolutions == (32, 64, 128, 256)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=mdn"], "unknown method mdn: choose from cascaded"),
        (["resolutions=32"], "resolutions=32: resolutions takes a list of one or more whole numb"),
        (["resolutions=[]"], "resolutions takes a list"),
        (["resolutions=[true]"], "resolutions takes a list"),
        (["resolutions=[-16]"], "resolutions takes a list"),
        (["resolutions=[16,[8,16,16]]"], r"of a square, and \[8, 16, 16\] is none: give sides"),
        (["trainer=[]"], "choose it by trainer=NAME"),
        (["--help"], "'--help' is no option"),
    ],
)
def test_what_is_no_option_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        scaling_settings(words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cost.repeats=0", "cost.repeats=0: nothing would be timed"),
        ("cost.repeats=1.5", "cost.repeats=1.5: repeats takes a whole number"),
        ("cost.batches=8", "cost.batches=8: batches takes a list"),
        ("cost.memory_cap=abc", "cost.memory_cap='abc'"),
        ("trainer.precision=fp7", "trainer.precision='fp7'"),
        ("trainer.accelerator=warp", "trainer.accelerator=warp"),
        ("denoiser.widht=8", "method=mdm: denoiser.widht: .*did you mean 'width'"),
        ("sampler.steps=2.5", "method=mdm: sampler.steps=2.5"),
        ("data.resolution=8", "mdm would be measured at 8 px instead of 16"),
    ],
)
def test_what_a_run_refuses_is_refused_before_the_first_is_timed(
    word, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(sides, "facts_of", lambda rest: {"channels": 3, "classes": 0})
    monkeypatch.setattr(sides, "costs", lambda *args: pytest.fail("it was timed"))
    with pytest.raises(ValueError, match=message):
        sides.measure_scaling(ScalingSettings(("mdm",), (16,), tmp_path, (word,)))


def test_a_side_that_a_method_cannot_have_is_no_reason_to_refuse_the_others():
    facts = {"channels": 3, "classes": 0}
    sides.check_parts("mdm", [case_of("mdm", side, [], facts) for side in (17, 32)])
    with pytest.raises(ValueError, match="resolution 8 does not divide 17"):
        sides.check_parts("mdm", [case_of("mdm", 17, [], facts)])


def test_methods_are_built_for_sides_that_the_data_does_not_have():
    facts = facts_of([])
    for name in sides.method_names():
        scale = ["method.schedule.scale=0.5"] if name == "chen" else []  # none released at 256 px
        case = case_of(name, 256, scale, facts)
        assert case.finest == 256 and case.what == "sample" and list(case.batches) == [1]


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    calls = []

    def costs(cases, track):
        calls.append([(case.method["name"], case.finest) for case in cases])
        return [
            Cost(case.finest, sample_failure="out of memory at batch 1")
            if case.finest == 64 and case.method["name"] == "mdm"
            else Cost(
                case.finest, sample_images_per_s=2.0, sample_memory_mib=900.0, batch=1,
                sample_memory_baseline_mib=800.0, flops_per_image=1e9 * case.finest**2,
                parameters=5, evaluations=20, sample_iqr_s=0.1, sample_noisy=False,
            )
            for case in cases
        ]  # fmt: skip

    monkeypatch.setattr(sides, "costs", costs)
    settings = ScalingSettings(("mdm", "end_to_end"), (32, 64), tmp_path, ())
    rows = sides.measure_scaling(settings)
    assert [len(call) for call in calls] == [2, 2]
    assert rows[0]["seconds"] == 0.5 and rows[0]["memory_mib"] == 100
    assert rows[2]["failure"] == "out of memory at batch 1"
    again = sides.measure_scaling(settings)
    assert calls[2:] == [[], [("mdm", 64)]] and again == rows  # the failure is tried again
    content = json.loads((tmp_path / "scaling.json").read_text())
    assert content["exponents"]["end_to_end"]["flops"] == "2.00"
    assert (tmp_path / "scaling.png").stat().st_size > 1000
    sides.measure_scaling(ScalingSettings(("mdm",), (32,), tmp_path, ("sampler.steps=3",)))
    assert calls[-1] == [("mdm", 32)]  # other options are other cases


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1]", b"\xff", b"[" * 100_000])
def test_damaged_rows_are_measured_again(tmp_path, caplog, content):
    (tmp_path / "rows.json").write_bytes(content)
    kept = sides.RowFile(tmp_path)
    assert kept.rows == {} and "all is measured again" in caplog.text
    kept.add({"key": {"value": 1.5}})
    assert sides.RowFile(tmp_path).rows == {"key": {"value": 1.5}}
