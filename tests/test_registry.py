from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hierdiff.options import ROLES
from hierdiff.registry import (
    Registry,
    UnknownOption,
    build,
    load_plugins,
    single,
    suggest,
)


class Shape:
    pass


class Square(Shape):
    """A square of a colour."""

    def __init__(self, *, side: int = 1, colour: str = "red"):
        self.side, self.colour = side, colour


class Circle(Shape):
    def __init__(self, *, radius: float):
        self.radius = radius


class Blob(Shape):
    def __init__(self, **anything: object):
        self.anything = anything


@pytest.fixture(autouse=True)
def roles() -> Iterator[None]:
    """Roles of the classes of this file are forgotten after each test."""
    yield
    for base in [base for base in ROLES if base.__module__ == __name__]:
        del ROLES[base]


@pytest.fixture
def shapes() -> Iterator[Registry[Shape]]:
    registry = Registry("shape", Shape)
    registry.register("square")(Square)
    registry.register("circle")(Circle)
    yield registry


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_node_is_a_constructor_call(shapes):
    square = shapes.build({"name": "square", "side": 3})
    assert isinstance(square, Square)
    assert (square.side, square.colour) == (3, "red")


def test_what_is_built_already_passes_through(shapes):
    square = Square()
    assert shapes.build(square) is square


def test_a_registered_function_builds_too(shapes):
    @shapes.register("big")
    def big(*, side: int) -> Square:
        return Square(side=side * 100)

    assert shapes.build({"name": "big", "side": 2}).side == 200


def test_a_taken_name_is_an_error_naming_both_classes(shapes):
    with pytest.raises(
        ValueError, match=r"'square' is already \S+:Square: give \S+:Circle another"
    ):
        shapes.register("square")(Circle)
    assert isinstance(shapes.build({"name": "square"}), Square)


def test_a_module_that_is_imported_again_may_register_again(shapes):
    assert shapes.register("square")(Square) is Square


def test_an_unknown_name_suggests_the_nearest_and_lists_all(shapes):
    message = (
        r"unknown shape 'sqare', did you mean 'square'\?.* circle, square; .*package.module:Class"
    )
    with pytest.raises(ValueError, match=message):
        shapes.build({"name": "sqare"})


def test_an_unknown_option_suggests_the_nearest_and_lists_all(shapes):
    message = r"shape 'square' has no option 'color', did you mean 'colour'\? options: side, colour"
    with pytest.raises(ValueError, match=message):
        shapes.build({"name": "square", "color": "blue"})


def test_a_role_with_one_class_gives_the_same_errors():
    @single("tile")
    class Tile:
        def __init__(self, *, side: int = 1):
            self.side = side

    try:
        assert build(Tile, {"side": 3}).side == 3
        tile = Tile()
        assert build(Tile, tile) is tile
        with pytest.raises(ValueError, match="^tile has no option 'sid', did you mean 'side'"):
            build(Tile, {"sid": 3})
        with pytest.raises(ValueError, match="^a.b=3: tile takes a mapping of its options"):
            build(Tile, 3, at="a.b")  # type: ignore[arg-type]
    finally:
        del ROLES[Tile]


def test_nothing_is_suggested_where_nothing_is_near():
    assert suggest("xyzzy", ["square", "circle"]) == ""


def test_a_constructor_that_says_that_it_takes_anything_is_given_anything(shapes):
    shapes.register("blob")(Blob)
    assert shapes.build({"name": "blob", "goo": 1}).anything == {"goo": 1}


def test_options_that_nobody_reads_are_refused_and_their_author_told_how_to_take_them(shapes):
    @shapes.register("loose")
    def loose(*args, **more) -> Square:
        return Square()

    message = "no option 'goo', options: none; .*loose takes any name if it says [*][*]more: object"
    with pytest.raises(UnknownOption, match=message):
        shapes.build({"name": "loose", "goo": 1})


def test_an_option_that_a_class_sets_for_its_parent_is_one_to_name(shapes):
    class Red(Square):
        def __init__(self, **options):
            super().__init__(colour="red", **options)

    shapes.register("red")(Red)
    assert shapes.build({"name": "red", "side": 2}).side == 2
    with pytest.raises(TypeError, match="shape 'red': .*'colour': name it in .*Red, which sets it"):
        shapes.build({"name": "red"}, offered={"colour": "blue"})


class Handing(Square):
    """Hands what it does not know on to a square."""

    def __init__(self, *, tilt: float = 0.0, **options: Any):
        super().__init__(**options)
        self.tilt = tilt


def test_what_a_class_hands_on_is_checked_by_the_class_that_gets_it(shapes):
    shapes.register("handing")(Handing)
    made = shapes.build({"name": "handing", "tilt": 1.0}, offered={"side": 7})
    assert (made.tilt, made.side) == (1.0, 7)
    with pytest.raises(UnknownOption, match="has no option 'sides', did you mean 'side'. options:"):
        shapes.build({"name": "handing", "sides": 7})
    with pytest.raises(ValueError, match="side"):
        shapes.build({"name": "handing", "side": "seven"})


def test_facts_reach_the_options_that_the_signature_names_and_no_others(shapes):
    assert shapes.build({"name": "square"}, offered={"side": 7, "classes": 10}).side == 7


def test_a_node_s_own_option_beats_the_fact(shapes):
    assert shapes.build({"name": "square", "side": 2}, offered={"side": 7}).side == 2


def test_errors_begin_with_the_path_of_the_node(shapes):
    for node, message in (
        ({"name": "sqare"}, r"^a\.b\.name: unknown shape 'sqare', did you mean 'square'"),
        ({"name": "no_such_module:X"}, r"^a\.b\.name: shape 'no_such_module:X' cannot be imported"),
        ({"name": "square", "sid": 1}, r"^a\.b\.sid: shape 'square' has no option 'sid'"),
        ({"side": 1}, r"^a\.b: a shape is given as"),
    ):
        with pytest.raises(ValueError, match=message):
            shapes.build(node, at="a.b")


@pytest.mark.parametrize("node", [{}, {"side": 3}, {"name": 3}, "square", 3, None])
def test_a_node_without_a_name_is_refused_with_the_names(shapes, node):
    with pytest.raises(ValueError, match="a shape is given as .name: .*circle, square"):
        shapes.build(node)


def test_what_builds_another_role_is_refused(shapes):
    shapes.register("list")(lambda: [])
    with pytest.raises(TypeError, match="'list' built a list, which is no Shape: subclass it"):
        shapes.build({"name": "list"})


def test_a_class_is_built_by_its_path_without_registration(shapes, importable: Path):
    (importable / "their_shapes.py").write_text(
        "from tests.test_registry import Shape\n"
        "class Star(Shape):\n"
        "    def __init__(self, *, points: int = 5):\n"
        "        self.points = points\n"
    )
    assert shapes.build({"name": "their_shapes:Star", "points": 6}).points == 6
    assert shapes.names() == ["circle", "square"]
    with pytest.raises(ValueError, match="no option 'point', did you mean 'points'"):
        shapes.build({"name": "their_shapes:Star", "point": 6})


@pytest.mark.parametrize("path", ["os:system", "builtins:dict", "os:path", "builtins:exec"])
def test_a_path_to_anything_but_a_subclass_is_refused_and_not_called(shapes, path):
    with pytest.raises(ValueError, match="is not a subclass of Shape"):
        shapes.build({"name": path, "command": "true"})


@pytest.mark.parametrize("path", ["nowhere_at_all:Net", "os:Nothing", ":Net", "os:", "a b:c"])
def test_a_path_that_leads_nowhere_says_how_to_write_one(shapes, path):
    with pytest.raises(ValueError, match="cannot be imported .*: write package.module:Class"):
        shapes.build({"name": path})


def test_a_plugin_is_loaded_by_its_entry_point(importable: Path):
    """An installed package, as far as Python can tell: a module and its dist-info folder."""
    (importable / "plug.py").write_text(
        "from tests.test_registry import plugged, Square\nplugged.register('plugged')(Square)\n"
    )
    announce(importable, "plug")
    load_plugins.cache_clear()
    assert "plugged" in plugged.names()
    assert isinstance(plugged.build({"name": "plugged"}), Square)


def test_a_plugin_may_name_the_modules_that_register(importable: Path):
    (importable / "pack").mkdir()
    (importable / "pack" / "__init__.py").write_text("hierdiff_plugins = ['pack.parts']\n")
    (importable / "pack" / "parts.py").write_text(
        "from tests.test_registry import plugged, Square\nplugged.register('packed')(Square)\n"
    )
    announce(importable, "pack")
    load_plugins.cache_clear()
    assert "packed" in plugged.names()


def test_a_plugin_that_does_not_import_is_named(importable: Path):
    (importable / "broken_plug.py").write_text("import nowhere_at_all\n")
    announce(importable, "broken_plug")
    load_plugins.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"'broken_plug' \(broken_plug\) does not import"):
            plugged.names()
    finally:
        load_plugins.cache_clear()


plugged = Registry("plugged shape", Square)


def announce(folder: Path, module: str) -> None:
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hierdiff.plugins]\n{module} = {module}\n")


@pytest.mark.parametrize("node", [None, "unet", {}, {"name": None}, {"name": ["unet"]}])
def test_what_names_no_part_is_refused_in_a_sentence(shapes, node):
    with pytest.raises(ValueError, match=r"is given as \{name: \.\.\., options\}, got"):
        shapes.named(node)


def test_a_node_without_a_name_is_of_the_default_one():
    shapes = Registry("shape", Shape, default="square")
    shapes.register("square")(Square)
    shapes.register("circle")(Circle)
    square = shapes.build({"side": 3})
    assert isinstance(square, Square) and square.side == 3
    assert isinstance(shapes.build({"name": "circle", "radius": 1.0}), Circle)
    assert shapes.takes({}, "side") and not shapes.takes({}, "radius")
    with pytest.raises(ValueError, match="shape 'square' has no option 'sise', did you mean"):
        shapes.build({"sise": 3})
    with pytest.raises(ValueError, match="a shape is given as"):
        shapes.build({"name": None})
