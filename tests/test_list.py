"""`python -m hierdiff.list` shows every registered part, its options and where it comes from."""

from __future__ import annotations

import pytest

from hierdiff import __doc__ as about
from hierdiff import __version__
from hierdiff.denoisers import denoisers
from hierdiff.list import description, main, options, paper_of, parts, plural
from hierdiff.options import ROLES
from hierdiff.registry import Registry, roles


def test_every_part_of_every_registry_is_listed() -> None:
    listed = parts()
    for role, registry in roles().items():
        assert sorted(listed[plural(role)]) == registry.names()


def test_every_part_says_what_it_is() -> None:
    for role, entries in parts().items():
        for name, entry in entries.items():
            if not entry.__module__.startswith("tests."):
                assert len(description(entry).split()) > 1, f"{name} of {role}"


def test_defaults_are_written_as_in_yaml() -> None:
    def build(*, width: int, blocks: int = 2, attention: bool = True, text: str | None = None,
              sides: tuple[float, ...] = (0.5, 1.0)) -> None: ...  # fmt: skip

    assert options(build) == {
        "width": "required", "blocks": "2", "attention": "true", "text": "null",
        "sides": "[0.5, 1.0]",
    }  # fmt: skip


def test_a_default_part_is_written_as_its_node() -> None:
    sampling = options(roles()["sampling"].get("sampling"))
    assert (sampling["rule"], sampling["steps"]) == ("{name: dpmpp_2m}", "25")


def test_every_metric_says_what_it_is_itself() -> None:
    said = [description(entry) for entry in parts()["metrics"].values()]
    assert len({*said}) == len(said) > 10 and all(said)
    assert options(parts()["metrics"]["fd"]) == {}


def test_the_source_is_the_paper_that_the_docstring_names() -> None:
    assert paper_of(denoisers.get("rin")) == "arXiv 2212.11972"


def test_a_registry_is_iterated_asked_and_printed() -> None:
    registry: Registry[int] = Registry("number of a test", int)
    try:
        registry.register("two")(lambda: 2)
        registry.register("one")(lambda: 1)
        assert list(registry) == ["one", "two"] and len(registry) == 2
        assert "one" in registry and "three" not in registry
        assert "one, two" in repr(registry)
    finally:
        del ROLES[int]


def test_an_unknown_word_names_the_nearest_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["denoiserz"]) == 1
    assert "did you mean 'denoisers'" in capsys.readouterr().err


def test_one_part_is_shown_with_its_whole_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ddim"]) == 0
    assert "eta=0.0" in capsys.readouterr().out


def test_the_package_says_what_it_is_and_its_version() -> None:
    assert about and __version__[0].isdigit()
