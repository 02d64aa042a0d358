"""The pages of methods say what the code says, and what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from PIL import Image

from agf_fx.methods import REGISTRY

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import method_pages
from method_pages import FOLDER, pages


def test_every_page_is_up_to_date():
    stale = [path.name for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run python tools/method_pages.py"
    assert {path.stem for path in FOLDER.glob("*.md")} == {*REGISTRY, "README"}


def test_every_method_has_words_figures_and_a_picture():
    notes = tomllib.loads((FOLDER / "notes.toml").read_text(encoding="utf-8"))
    assert {*notes["methods"]} == {*REGISTRY}
    for said in notes["methods"].values():
        assert min(len(said[part]) for part in ("formula", "good", "bad")) > 8
        assert said.get("family") is None or said["family"] in notes["families"]
    measured = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))
    quick = [name for name, entry in REGISTRY.items() if entry.make(entry.options()).search is None]
    assert {*quick} <= {*measured} <= {*REGISTRY}
    for name in REGISTRY:
        width, height = Image.open(FOLDER / "images" / f"{name}.jpg").size
        assert width > 3 * 224 > height


def test_a_page_that_is_out_of_date_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(method_pages, "FOLDER", tmp_path)
    for name in ("notes.toml", "measured.json"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(sys, "argv", ["method_pages.py"])
    assert method_pages.main() == 0
    monkeypatch.setattr(sys, "argv", ["method_pages.py", "--check"])
    assert method_pages.main() == 0
    (tmp_path / "agf.md").write_text("old")
    (tmp_path / "gone.md").write_text("of a method that is no more")
    assert method_pages.main() == 1
    said = capsys.readouterr().out
    assert "agf.md" in said
    assert "gone.md" in said


def test_the_rules_of_lrp_say_that_it_is_called_patented():
    for name in ("lrp-epsilon", "clrp", "attnlrp"):
        assert "patented" in (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def test_the_tool_measures_a_method(tmp_path):
    file = tmp_path / "measured.json"
    tool = Path(method_pages.__file__).parent / "method_evidence.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--methods", "gradient", "--json", str(file)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found, published = (json.loads(path.read_text(encoding="utf-8")) for path in (file, FOLDER / "measured.json"))
    for subject in ("mosaics", "scenes"):
        for key, value in found["gradient"][subject].items():
            assert abs(value - published["gradient"][subject][key]) < 0.02
