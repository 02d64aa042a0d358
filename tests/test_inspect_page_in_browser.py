"""The page of an explanation graph in a real browser, where the system has a Chromium."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from importlib import resources

import pytest
import torch
from test_inspect_page import EVIL, SIZE, TITLE, Net, image, write_page
from test_page_certificates import own_method
from torch import nn

import agf_fx
from agf_fx.methods import REGISTRY


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "graph.html")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, written):
    """The page, and a check at the end that it has said nothing and asked nobody for anything."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"{written.as_uri()}#depth=9")
    tab.wait_for_selector("html[data-ready]")
    yield tab
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:", "blob:"))] == []
    context.close()


def chosen(tab):
    return tab.locator('.row[aria-selected="true"]').get_attribute("data-key")


def test_it_opens_and_names_stay_text(opened):
    assert opened.locator("h1").text_content() == f"{TITLE} by agf"
    assert EVIL in [row.text_content() for row in opened.locator(".row .name").all()]
    assert opened.locator("script").count() == 3


def test_a_layer_opens_with_formula_operations_and_costs(opened):
    opened.locator('.row[data-key="l:3"]').click()
    panel = opened.locator("#details")
    assert panel.locator("h2").inner_text() == "stage.0.conv1"
    assert panel.locator('.formula[data-text^="Φ_in = Δ(C, r)"] math').count() == 1
    box = panel.locator(".formula math").first.bounding_box()
    assert box["width"] > 40
    assert box["height"] > 12
    panel.locator("summary", has_text="relevance").click()
    panel.locator("tbody tr").nth(50).wait_for(state="attached")
    assert panel.locator("mfrac").count() > 3
    words = panel.inner_text()
    assert "stage.0.conv1.weight" in words
    assert "FLOP" in words
    assert "test_inspect_page.py" in words
    assert "receives" in words


def test_searching(opened):
    opened.keyboard.press("/")
    opened.keyboard.type("guided_conv")
    assert opened.locator("#found").inner_text().startswith("2 of")
    assert opened.locator(".row.dim").count() > 3
    opened.keyboard.press("Enter")
    first = chosen(opened)
    opened.keyboard.press("Enter")
    assert chosen(opened) != first
    assert "guided_convolution" in opened.locator("#details").inner_text()
    opened.keyboard.press("Escape")
    assert opened.locator(".row.dim").count() == 0


def test_modules_open_and_close_by_keyboard(opened):
    opened.locator("#depth").select_option("1")
    assert opened.locator(".row.closed .name").all_inner_texts() == ["stage"]
    count = opened.locator(".row").count()
    opened.locator(".row.closed").click()
    opened.keyboard.press("ArrowRight")
    assert opened.locator(".row").count() > count
    assert opened.locator(".row.head").get_attribute("aria-expanded") == "true"
    opened.keyboard.press("ArrowDown")
    assert chosen(opened) == "m:stage.0"
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("ArrowLeft")
    assert opened.locator(".row").count() == count
    opened.keyboard.press("End")
    opened.keyboard.press("Enter")
    assert opened.locator("#details").evaluate("node => node === document.activeElement")


def test_streams_have_rails_and_residual_branches_have_lanes(opened):
    lines = {
        name: opened.locator(f'path[data-stream="{name}"]').get_attribute("d") for name in ("forward", "relevance")
    }
    for line in lines.values():
        assert line.count("Q") == 2 * 2  # two bends for each of two residual branches
    assert opened.locator('path[data-stream="gradient"]').get_attribute("stroke-dasharray")


def test_the_slider_goes_from_logits_to_pixels(opened):
    slider, picture = opened.locator("#slider"), opened.locator("#pictures img").last
    assert "pixels" in opened.locator("#stop").inner_text()
    slider.focus()
    opened.keyboard.press("Home")
    assert "pixels" not in opened.locator("#stop").inner_text()
    for _ in range(6):
        opened.keyboard.press("ArrowRight")
    assert picture.get_attribute("src").startswith("data:image/png")
    assert slider.get_attribute("aria-valuetext") in opened.locator("#details h2").inner_text()
    opened.locator('.row[data-key="l:1"]').click()
    assert "stem" in opened.locator("#stop").inner_text()


def test_bars_and_colours(opened):
    bars = opened.locator(".cost").count()
    opened.locator("#heat").select_option("bytes")
    assert opened.locator(".cost").count() == bars
    opened.locator("#heat").select_option("")
    assert opened.locator(".cost").count() == 0
    ground = "getComputedStyle(document.body).backgroundColor"
    grounds = []
    for name in ("light", "dark"):
        opened.locator("#theme").select_option(name)
        grounds.append(opened.evaluate(ground))
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_it_fits_a_phone(browser, written):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    tab = context.new_page()
    tab.goto(written.as_uri())
    tab.wait_for_selector("html[data-ready]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.locator("#details").is_hidden()
    tab.locator(".row .name", has_text="stem").tap()
    assert tab.locator("#details h2").is_visible()
    tab.locator(".close").tap()
    assert tab.locator("#details").is_hidden()
    context.close()


@pytest.mark.parametrize("name", ["densenet121"])
def test_networks_open_fast_and_small(browser, name, tmp_path):
    import torchvision

    made = agf_fx.compile(getattr(torchvision.models, name)().eval(), torch.zeros(1, 3, 64, 64))
    made.to_html(tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size < 1_000_000
    tab = browser.new_page()
    tab.goto(f"{(tmp_path / 'a.html').as_uri()}#depth=9")
    tab.wait_for_selector("html[data-ready]")
    assert int(tab.evaluate("document.documentElement.dataset.ready")) < 3000
    tab.close()


