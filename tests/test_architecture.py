"""The direction of imports, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A module may import from its own room and from rooms of a lower layer.
LAYERS = {
    "errors": 0,
    "notices": 0,
    "version": 0,
    "ambient": 1,
    "atomic": 1,
    "regular": 1,
    "options": 1,
    "ir": 2,
    "frontend": 3,
    "rules": 3,
    "passes": 3,
    "methods": 4,
    "tracer": 5,
    "emit": 6,
    "pipeline": 7,
    # Images, data, networks and measures know errors, warnings and files, not the compiler.
    "imaging": 2,
    "data": 2,
    "evaluate": 2,
    "models": 3,
    "exports": 3,
    "store": 3,
    "inspect": 8,
    "runtime": 9,
    "captum": 10,
    "quantus": 10,
    "runs": 10,
    "ssl": 10,
    "cli": 11,
    "__main__": 11,
}
SIDE = {"imaging", "data", "evaluate", "models"}
SIDE_MAY_USE = SIDE | {"errors", "notices", "atomic", "regular", "options", "assets"}
SAME_LAYER_STRANGERS = {
    frozenset(pair) for pair in [("frontend", "rules"), ("rules", "passes"), ("frontend", "passes")]
}


def sources():
    for path in sorted([*ROOT.glob("agf_fx/**/*.py"), *ROOT.glob("passes/*.py")]):
        room = (
            "passes" if path.parent.name == "passes" else path.relative_to(ROOT / "agf_fx").parts[0].removesuffix(".py")
        )
        if room not in ("__init__", "assets"):
            yield room, path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def rooms(path):
    names = (name.split(".") for name in imports(path) if name.startswith("agf_fx."))
    return {parts[1] for parts in names if parts[1] in LAYERS}


@pytest.mark.parametrize(("room", "path"), [pytest.param(*s, id=str(s[1].relative_to(ROOT))) for s in sources()])
def test_imports_point_one_way(room, path):
    assert room in LAYERS, f"give {room} a layer"
    for other in rooms(path) - {room}:
        assert LAYERS[other] <= LAYERS[room], f"{room} imports {other}"
        assert frozenset((room, other)) not in SAME_LAYER_STRANGERS, f"{room} imports {other}"
        assert room not in SIDE or other in SIDE_MAY_USE, f"{room} imports {other}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("passes/*.py")), ids=lambda path: path.name)
def test_passes_import_the_representation_only(path):
    assert rooms(path) <= {"ir", "errors"}


@pytest.mark.parametrize(
    "path", [p for p in sorted(ROOT.glob("passes/*.py")) if p.name != "__init__.py"], ids=lambda p: p.name
)
def test_every_pass_has_a_test_and_is_in_the_pipeline_or_asked_for_by_a_method(path):
    assert (ROOT / "tests" / "passes" / f"test_{path.name}").exists()
    users = [ROOT / "agf_fx" / "pipeline.py", *(ROOT / "agf_fx" / "methods").glob("*.py")]
    assert f"agf_fx.passes.{path.stem}" in {name for user in users for name in imports(user)}
