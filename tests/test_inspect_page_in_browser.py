"""The page of an explanation graph in a real browser, where the system has a Chromium."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
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


@contextmanager
def visit(browser, path, depth=9, **options):
    """A tab with the page, and a check at the end that it has said nothing and asked nobody for anything."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"{path.as_uri()}#depth={depth}")
    tab.wait_for_selector("html[data-ready]")
    yield tab
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:", "blob:"))] == []
    context.close()


@pytest.fixture
def opened(browser, written):
    with visit(browser, written) as tab:
        yield tab


PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}


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
    with visit(browser, written, **PHONE) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.locator("#details").is_hidden()
        tab.locator(".row .name", has_text="stem").tap()
        assert tab.locator("#details h2").is_visible()
        tab.locator(".close").tap()
        assert tab.locator("#details").is_hidden()


def test_the_slider_is_wide_on_a_narrow_phone(browser, written, compared):
    for path in (written, compared[0]):
        with visit(browser, path, **PHONE | {"viewport": {"width": 320, "height": 640}}) as tab:
            assert tab.locator("#slider").bounding_box()["width"] > 150
            assert tab.locator("#stop").evaluate("node => node.scrollWidth <= node.clientWidth")
            rows = tab.locator(".row").first.evaluate("row => row.parentElement.parentElement.clientHeight")
            assert rows > 150


def test_a_row_without_a_map_says_so(opened):
    opened.locator('.row[data-key="l:1"]').click()
    assert "stem" in opened.locator("#stop").inner_text()
    opened.locator(".row .name", has_text="(target)").click()
    assert opened.locator("#stop").inner_text() == "(target) has no map of its own"
    assert opened.locator("#now").is_hidden()
    opened.locator('.row[data-key="l:1"]').click()
    assert opened.locator("#now").is_visible()


class Dense(nn.Module):
    """Every layer reads all that are before it, as in a DenseNet."""

    def __init__(self, layers=32):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 2 * before, 2, 3, 1, 1) for before in range(layers))
        self.fc = nn.Linear(3 + 2 * layers, 4)

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], 1)
        return self.fc(x.mean((2, 3)))


def test_networks_open_fast_and_small(browser, tmp_path):
    agf_fx.compile(Dense().eval(), torch.zeros(1, 3, 8, 8)).to_html(tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size < 300_000
    with visit(browser, tmp_path / "a.html") as tab:
        assert int(tab.evaluate("document.documentElement.dataset.ready")) < 3000


# --- certificates ---------------------------------------------------------------------------------------------------


def test_a_certificate_stands_beside_its_formula_and_stays_open(opened):
    opened.locator('.row[data-key="l:3"]').click()
    box = opened.locator("#details .certificate").first
    assert box.locator("summary").inner_text().endswith("Certificate: 6 claims, proved")
    assert not box.locator("li").first.is_visible()
    box.locator("summary").click()
    assert box.locator("li").first.is_visible()
    words = box.inner_text()
    assert "when this page was written" in words
    assert "solves the normal equations" in words
    assert "not proved" not in words
    assert box.locator("li math").count() == 6
    height = box.locator("li math").first.bounding_box()["height"]
    assert height > 20  # sums stand above what they run over
    opened.locator('.row[data-key="l:4"]').click()
    assert opened.locator("#details .certificate li").first.is_visible()
    assert opened.locator("#details .how").evaluate_all("all => all.filter((said) => !said.hidden).length") == 1
    opened.locator("#details .certificate summary").first.click()
    opened.locator('.row[data-key="l:3"]').click()
    assert not opened.locator("#details .certificate li").first.is_visible()


def test_the_ends_have_the_certificates_of_seeds_merges_and_the_map(opened):
    opened.locator('.row[data-key="l:0"]').click()
    assert "the map: normalised_channel_sum" in opened.locator("#details").inner_text()
    opened.locator(".row").last.click()
    words = opened.locator("#details").inner_text()
    assert "gradient starts with: softened_target_gradient" in words
    assert "relevance where several layers read one value: fan_out" in words
    assert opened.locator("#details .certificate").count() == 3


def test_rules_without_a_certificate_say_so_and_doubts_are_seen(browser, tmp_path):
    made = agf_fx.compile(Net("other").eval(), torch.zeros(1, 3, SIZE, SIZE), method=own_method())
    made.to_html(tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    where = re.search(r'(\["conserves but for biases.*?,)""\]', text)
    (tmp_path / "b.html").write_text(f'{text[: where.start()]}{where[1]}"a - b"]{text[where.end() :]}')
    with visit(browser, tmp_path / "b.html") as tab:
        tab.locator(".row .name", has_text="fc").click()
        assert "No certificate" in tab.locator("#details .certificate").inner_text()
        tab.locator(".row .name", has_text="stem").click()
        words = tab.locator("#details .certificate").inner_text()  # open, without a click
        assert re.search(r"Certificate: 1 of \d claims not proved", words)
        assert "left: a - b" in words


# --- many networks and methods --------------------------------------------------------------------------------------


class OneLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, 4)

    def forward(self, x):
        return self.fc(x.flatten(1))


def vit():
    from torchvision.models import VisionTransformer

    made = VisionTransformer(SIZE, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4)
    nn.init.normal_(made.heads.head.weight)
    return made


def three_streams():
    (agf, contrast) = (REGISTRY[name].make(REGISTRY[name].options()) for name in ("agf", "sglrp"))
    further = replace(contrast.streams[1], name="contrast")
    return replace(agf, name="three-streams", streams=(*agf.streams, further))


PAGES = {
    "one layer": (OneLayer, "agf"),
    "ViT": (vit, "attnlrp"),
    "gradient only": (Net, "gradient"),
    "three streams": (Net, three_streams),
    "no stream": (Net, "eigencam"),
    "many points": (Net, "integrated-gradients"),
}
LABELLED = """() => [...document.querySelectorAll("button, select, input, summary, [role]")].filter((node) => node.checkVisibility()
  && !(node.getAttribute("aria-label") || node.closest("label")?.innerText || node.innerText)).map((node) => node.outerHTML)"""
UNSAID = """() => [...document.images].filter((image) => image.checkVisibility() && !image.alt).length"""


@pytest.mark.parametrize("name", PAGES)
def test_every_row_of_every_kind_of_page_opens(browser, name, tmp_path):
    model, method = PAGES[name]
    torch.manual_seed(0)
    method = method if isinstance(method, str) else method()
    made = agf_fx.compile(model().eval(), torch.zeros(1, 3, SIZE, SIZE), method=method)
    made.to_html(tmp_path / "a.html", image(), 1)
    for options in ({}, PHONE):
        with visit(browser, tmp_path / "a.html", **options) as tab:
            rows = tab.locator(".row:not(.head)")
            tab.evaluate(
                "async () => { for (const row of document.querySelectorAll('.row:not(.head)')) { row.click();"
                " await new Promise((done) => setTimeout(done, 5));"
                " document.querySelectorAll('#details details').forEach((box) => { box.open = true; }); } }"
            )
            assert rows.count() == len(made.graph.layers())
            assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]
            assert tab.evaluate(LABELLED) == []
            assert tab.evaluate(UNSAID) == 0
            dock = tab.locator("#story").inner_text()
            assert ("Layers have no maps" in dock) is (name in ("no stream", "many points"))
            assert tab.locator("#slider").is_visible() is (name not in ("no stream", "many points"))
            assert tab.locator("#legend span").count() == 1 + len(made.graph.rules)


def test_everything_by_keyboard(opened):
    """From the top: search, choose, open and read a certificate, and come back."""
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.id") == "search"
    opened.keyboard.type("guided")
    opened.keyboard.press("Enter")
    opened.keyboard.press("Escape")
    assert opened.evaluate("document.activeElement.classList.contains('row')")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "details"
    for _ in range(8):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    opened.keyboard.press("Enter")
    assert opened.locator("#details .certificate li").first.is_visible()
    opened.keyboard.press("Escape")
    assert opened.evaluate("document.activeElement.classList.contains('row')")
    opened.keyboard.press("Home")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("ArrowDown")
    while opened.locator('.row[aria-selected="true"]').get_attribute("aria-expanded") != "true":
        opened.keyboard.press("ArrowDown")
    head = chosen(opened)
    opened.keyboard.press("ArrowRight")  # into an open module
    assert chosen(opened) != head
    assert opened.locator('.row[aria-selected="true"]').get_attribute("aria-level") == "2"


def luminance(colour):
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_words_can_be_read_in_both_colours():
    """WCAG 2's contrast of 4.5, on the page, on what stands out from it, and on what is chosen."""
    style = resources.files("agf_fx.inspect").joinpath("assets/page.css").read_text()
    palettes = [
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", part))
        for part in re.findall(r"{([^{}]*--ground:[^{}]*)}", style)
    ]
    assert len(palettes) == 3
    for palette in palettes:
        for word in ("text", "faint", "relevance", "gradient", "other"):
            for ground in ("ground", "raised", "chosen"):
                light, dark = sorted((luminance(palette[word]), luminance(palette[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (word, ground)


# --- against another graph ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "against.html"
    torch.manual_seed(0)
    model, example = Net().eval(), torch.zeros(1, 3, SIZE, SIZE)
    one, other = (
        agf_fx.compile(model, example, options=agf_fx.AGFOptions(flat_convolutions=flat)) for flat in ("auto", "none")
    )
    one.to_html(path, image(), 1, against=other)
    return path, one.difference(other, image(), 1), one.graph.layers()


def test_a_page_marks_where_another_graph_differs(browser, compared):
    path, found, layers = compared
    differing = [layer.name for layer in found.differing()]
    with visit(browser, path) as tab:
        assert f"{len(differing)} of {len(found.layers)} layers differ" in tab.locator("#against").inner_text()
        marked = tab.locator(".row:not(.head):has(.differs)").evaluate_all("rows => rows.map((row) => row.dataset.key)")
        assert [layers[int(key.removeprefix("l:"))].name for key in marked] == differing
        tab.keyboard.press("/")
        tab.keyboard.type("differs")
        assert tab.locator("#found").inner_text().startswith(f"{len(differing)} of")
        tab.keyboard.press("Enter")
        panel = tab.locator("#details")
        assert panel.locator("h2").inner_text() == differing[0]
        assert "Against" in panel.inner_text()
        shown = panel.locator("img.map")
        assert shown.count() == 2
        assert shown.nth(0).get_attribute("src") != shown.nth(1).get_attribute("src")
        then = tab.locator("#then")
        assert then.get_attribute("src") == shown.nth(1).get_attribute("src")
        assert then.get_attribute("alt").endswith("red for, blue against")


def test_a_compared_page_fits_a_phone_and_says_what_it_shows(browser, compared):
    for options in ({}, PHONE):
        with visit(browser, compared[0], **options) as tab:
            for key in tab.locator(".row:not(.head)").evaluate_all("rows => rows.map((row) => row.dataset.key)"):
                tab.locator(f'.row[data-key="{key}"]').click()
                assert tab.evaluate(LABELLED) == []
                assert tab.evaluate(UNSAID) == 0
                if options:
                    break  # details cover the rows of a phone
            assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]


def test_a_page_against_itself_marks_nothing(browser, compared, tmp_path):
    made = agf_fx.compile(Net().eval(), torch.zeros(1, 3, SIZE, SIZE))
    made.to_html(tmp_path / "same.html", image(), 1, against=made)
    with visit(browser, tmp_path / "same.html") as tab:
        assert "no layer differs" in tab.locator("#against").inner_text()
        assert tab.locator(".differs").count() == 0
