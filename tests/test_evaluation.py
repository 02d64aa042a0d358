"""Evaluations: experiments, what is kept of them, and what they say in numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import agf_fx
from agf_fx.data.datasets import batches, open_dataset
from agf_fx.errors import InputError, OptionsError
from agf_fx.evaluate.evaluation import Part, evaluate, frame, summary
from agf_fx.evaluate.experiments import EXPERIMENTS, Subject, rows_of
from agf_fx.evaluate.imputation import constant, noisy_linear
from agf_fx.evaluate.ledger import Ledger
from agf_fx.evaluate.perturbation import perturbation
from agf_fx.evaluate.pointing import cell_shares
from agf_fx.evaluate.segmentation import segmentation
from agf_fx.imaging.preprocess import Preprocessing

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(4, 3, 8, 8, generator=GENERATOR)
TARGETS = torch.tensor([[0, 2], [1, 3], [2, -1], [3, 0]])
MASKS = torch.zeros(4, 2, 8, 8, dtype=torch.bool)
MASKS[:, 0, :4, :5], MASKS[[0, 1, 3], 1, 5:, 2:] = True, True
BATCH = Part(["a", "b", "c", "d"], IMAGES, TARGETS, MASKS, None)


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4)
    return nn.Sequential(*layers).eval()


MODEL = network()


def subject(method="gradient-x-input", **more):
    explainer = agf_fx.compile(MODEL, method=method)
    return Subject(MODEL, explainer, model=MODEL, bind=explainer.bind, black=(-1.0, 0.0, 1.0), **more)


SUBJECT = subject()
MAPS = agf_fx.compile(MODEL, method="gradient-x-input")(IMAGES, TARGETS.clamp_min(0))


def measured(name, batch=BATCH, of=SUBJECT, **options):
    return rows_of(EXPERIMENTS[name], of, batch, **options)


def part(**change):
    return Part(**(vars(BATCH) | change))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rows_have_the_measures_that_are_promised(name):
    batch = part(targets=torch.tensor([[0, 1, 2, 3]] * 4), masks=None) if name == "grid" else BATCH
    rows = measured(name, batch)
    several = name in ("separation", "saliency-bias")  # "c" shows one object alone
    assert {row["image"] for row in rows} == ({"a", "b", "d"} if several else {"a", "b", "c", "d"})
    for row in rows:
        assert set(EXPERIMENTS[name].measures) <= set(row)
        assert all(isinstance(row[measure], float) for measure in EXPERIMENTS[name].measures)
        assert row["target"] >= 0


@pytest.mark.parametrize("way", ["least", "most"])
def test_perturbation_explains_the_predicted_and_the_true_class(way):
    rows = measured({"least": "negative-perturbation", "most": "positive-perturbation"}[way])
    assert [row["which"] for row in rows] == ["predicted"] * 4 + ["target"] * 4
    target = torch.stack([MODEL(IMAGES).argmax(1), TARGETS[:, 0]], 1)
    curves = perturbation(
        MODEL, IMAGES, agf_fx.compile(MODEL, method="gradient-x-input")(IMAGES, target), target,
        labels=_own(target),
        first=way, impute=constant([-1.0, 0.0, 1.0]),
    )  # fmt: skip
    assert [row["target"] for row in rows] == target.T.flatten().tolist()
    assert [row["area"] for row in rows] == pytest.approx(curves.area(curves.correct).T.flatten().tolist())
    assert [row["accuracy at 30 %"] for row in rows] == curves.correct[..., 2].double().T.flatten().tolist()


def test_objects_are_compared_with_their_own_masks():
    rows = measured("segmentation")
    assert [(row["image"], row["target"]) for row in rows] == [
        ("a", 0), ("a", 2), ("b", 1), ("b", 3), ("c", 2), ("d", 3), ("d", 0),
    ]  # fmt: skip
    found = segmentation(MAPS[1], MASKS[1])
    assert [row["mean_iou"] for row in rows[2:4]] == pytest.approx(found.mean_iou.tolist())
    positive = measured("segmentation", threshold="mean")
    mean = segmentation(MAPS[1], MASKS[1], threshold="mean")
    assert [row["pixel_accuracy"] for row in positive[2:4]] == pytest.approx(mean.pixel_accuracy.tolist())
    one = measured("pointing", part(targets=TARGETS[:, :0], masks=MASKS[:, :1]))
    assert [row["target"] for row in one] == MODEL(IMAGES).argmax(1).tolist()
    ignored = torch.zeros(4, 8, 8, dtype=torch.bool)
    ignored[:, 2] = True
    left = segmentation(MAPS[1], MASKS[1], ignored=ignored[:2])
    rows = measured("segmentation", part(ignored=ignored))
    assert [row["pixel_accuracy"] for row in rows[2:4]] == pytest.approx(left.pixel_accuracy.tolist())
    with pytest.raises(InputError, match="have none"):
        measured("segmentation", part(masks=None))


def _own(target):
    """What each map is judged by: its own class, if the image shows it, and of images of one class that one."""
    rows = []
    for shown, explained in zip(TARGETS.tolist(), target.tolist(), strict=True):
        several = min(shown) >= 0
        rows.append([(one if one in shown else -1) if several else shown[0] for one in explained])
    return torch.tensor(rows)


def test_a_map_of_several_classes_is_judged_by_its_own():
    """Hiding the other object leaves the map's class alone; hiding its own object does not."""

    def predict(images):  # a class for each half
        halves = images[:, :1].mean((1, 3))
        logits = torch.stack([halves[:, :4].mean(1), halves[:, 4:].mean(1)], 1)
        return 20 * logits - 4

    images, masks = torch.ones(1, 3, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, :4], masks[0, 1, 4:] = True, True
    batch = Part(["a"], images, torch.tensor([[0, 1]]), masks, None)
    areas = {}
    for turned in (False, True):
        own = masks.flip(1) if turned else masks
        of = Subject(predict, lambda x, t, own=own: own[:, t[0]].to(x), multi_label=True)
        for way in ("negative", "positive"):
            (row,) = (r for r in measured(f"{way}-perturbation", batch, of) if r["which"] == "target")
            areas[way, turned] = row["area"]
    assert areas["negative", False] > 0.8 > areas["negative", True] + 0.2
    assert areas["positive", False] < areas["positive", True] - 0.2


def test_sigmoids_are_right_above_a_half():
    images = torch.zeros(1, 3, 8, 8)
    for logits, labels, right in (
        ([1.0, 2.0], 0, True),
        ([-1.0, -2.0], 0, False),
        ([-1.0, 2.0], -1, False),
        ([1.0, -2.0], 1, False),
    ):
        curves = perturbation(
            lambda x, logits=logits: torch.tensor([logits]).expand(len(x), -1),
            *(images, torch.rand(1, 8, 8), torch.tensor([0])),
            labels=torch.tensor([labels]),
            activation="sigmoid",
        )
        assert bool((curves.correct == right).all())


@pytest.mark.parametrize("name", ["segmentation", "pointing", "separation", "saliency-bias"])
def test_what_the_prepared_image_does_not_show_is_not_asked_for(name):
    """An object that lies where the image was cut off, or where pixels are ignored."""
    gone = MASKS.clone()
    gone[0, 1] = False
    rows = [(row["image"], row["target"]) for row in measured(name, part(masks=gone))]
    assert ("a", 2) not in rows
    assert (("a", 0) in rows) == (name in ("segmentation", "pointing"))  # alone there is nothing to tell apart
    ignored = torch.zeros(4, 8, 8, dtype=torch.bool)
    ignored[0] = MASKS[0, 1]
    assert [(row["image"], row["target"]) for row in measured(name, part(ignored=ignored))] == rows


def test_ignored_pixels_count_for_nothing():
    maps, mask = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    maps[..., 0, 0], maps[..., 2, 2], maps[..., 4, 4] = 5.0, 3.0, 1.0
    mask[..., 2, 2] = True
    ignored = torch.zeros(1, 8, 8, dtype=torch.bool)
    ignored[:, :2] = True
    batch = Part(["a"], torch.zeros(1, 3, 8, 8), torch.tensor([[0]]), mask, ignored)
    of = Subject(MODEL, lambda images, target: maps)
    (row,) = measured("pointing", batch, of)
    assert (row["peak"], row["share"], row["ranks"]) == (1, 0.75, 1)
    (row,) = measured("pointing", Part(**(vars(batch) | {"ignored": None})), of)
    assert (row["peak"], row["share"]) == (0, pytest.approx(1 / 3))


@pytest.mark.parametrize("name", ["robustness", "negative-perturbation"])
def test_the_company_of_an_image_does_not_matter(name):
    options = {} if name == "robustness" else {"impute": noisy_linear(0.1)}
    whole = measured(name, **options)
    for index, image in enumerate("abcd"):
        alone = measured(name, Part.of(BATCH, [index]), **options)
        for one, other in zip(alone, (row for row in whole if row["image"] == image), strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_two_images_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="two images are called 'a'"):
        evaluate(SEGMENTATION, {"x": SUBJECT}, [Part.of(BATCH, [0]), Part.of(BATCH, [0])], Ledger(tmp_path, ABOUT))


def test_whatever_a_model_raises_costs_its_image_alone(tmp_path):
    def explain(images, target):
        if bool((images == IMAGES[1]).flatten(1).all(1).any()):
            raise KeyError("of the user's")
        return SUBJECT.explain(images, target)

    ledger = Ledger(tmp_path, ABOUT)
    seen = evaluate(SEGMENTATION, {"x": Subject(MODEL, explain)}, [BATCH], ledger)
    assert seen == {*"abcd"}
    assert {row["image"] for row in ledger.rows} == {"a", "c", "d"}
    assert list(ledger.failures) == [("x", "b")]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("rows.jsonl", '{"some": 1}\n', "line 1 is damaged"),
        ("rows.jsonl", "[]\n", "line 1 is damaged"),
        ("experiment.json", "[]", "experiment.json is damaged .* belong to what it said"),
        ("experiment.json", None, "experiment.json beside it, .* is missing"),
    ],
)
def test_files_of_another_kind_are_refused_in_words(tmp_path, file, text, message):
    evaluate(SEGMENTATION, {"x": SUBJECT}, [BATCH], Ledger(tmp_path, ABOUT))
    (tmp_path / file).unlink() if text is None else (tmp_path / file).write_text(text)
    with pytest.raises(OptionsError, match=message):
        Ledger(tmp_path, ABOUT)


def test_what_images_are_now_decides_which_rows_count(tmp_path):
    """Labels that are corrected, and images that are gone or left out, in one folder."""
    calls = []
    known = {"a": "0;2", "b": "1;3", "c": "2", "d": ""}
    given = {"experiment": SEGMENTATION, "subjects": {"x": counted(calls)}}
    evaluate(batches=[BATCH], ledger=Ledger(tmp_path, ABOUT, images=known), **given)
    assert len(Ledger(tmp_path, ABOUT, images=known).rows) == 7
    fewer = Ledger(tmp_path, ABOUT, images={"a": "0;2", "d": ""})
    assert {row["image"] for row in fewer.rows} == {"a", "d"}
    corrected = known | {"b": "0;3"}
    ledger = Ledger(tmp_path, ABOUT, images=corrected)
    assert {row["image"] for row in ledger.rows} == {"a", "c", "d"}
    now = part(targets=torch.tensor([[0, 2], [0, 3], [2, -1], [3, 0]]))
    evaluate(batches=[now], ledger=ledger, **given)
    assert calls == [4, 1]
    again = Ledger(tmp_path, ABOUT, images=corrected)
    assert [row["target"] for row in again.rows if row["image"] == "b"] == [0, 3]
    assert again.rows == ledger.rows
    back = Ledger(tmp_path, ABOUT, images=known)
    assert [row["target"] for row in back.rows if row["image"] == "b"] == [1, 3]
    back.add("x", [], [], {"c": "torn"})
    assert ("x", "c") not in Ledger(tmp_path, ABOUT, images={"a": "0;2"}).failures


def test_failures_alone_are_forgotten_with_their_experiment(tmp_path):
    Ledger(tmp_path, ABOUT).add("x", [], [], {"a": "torn"})
    assert not Ledger(tmp_path, ABOUT | {"model": "other"}).failures


def test_an_image_without_an_object_has_no_rows():
    empty, none = MASKS.clone(), TARGETS.clone()
    empty[1], none[1] = False, -1
    for name in ("segmentation", "pointing"):
        rows = measured(name, part(targets=none, masks=empty))
        assert {row["image"] for row in rows} == {"a", "c", "d"}
        alone = Part(["b"], IMAGES[1:2], none[1:2, :0], empty[1:2, :0], None)  # as a batch of it alone
        assert measured(name, alone) == []
    unknown = measured("pointing", part(targets=none))  # an object of which the class is not known
    assert {row["image"] for row in unknown} == {"a", "b", "c", "d"}


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in ("sanity", "class-sensitivity")])
def test_maps_that_are_not_finite_are_no_result(name):
    def broken(images, target):
        maps = SUBJECT.explain(images, target).clone()
        maps[0, 0, 2, 2] = torch.nan
        return maps

    batch = part(targets=torch.tensor([[0, 1, 2, 3]] * 4), masks=None) if name == "grid" else BATCH
    with pytest.raises(InputError, match="NaN"):
        measured(name, batch, of=Subject(MODEL, broken))


def test_a_failure_leaves_the_network_that_was_trained():
    of, calls = subject(), []

    def bind(model):
        calls.append(model)
        if len(calls) == 2:
            of.bind(model)
            raise RuntimeError("out of memory")
        return of.bind(model)

    failing = Subject(MODEL, of.explain, model=MODEL, bind=bind)
    with pytest.raises(RuntimeError):
        measured("sanity", of=failing)
    assert calls[-1] is MODEL
    assert torch.equal(of.explain(IMAGES, 1), SUBJECT.explain(IMAGES, 1))


def test_pixels_that_two_objects_share_do_not_fade():
    shared = MASKS.clone()
    shared[:, 1, 3:] = True
    images = IMAGES.clone()
    alone = (shared[:, 1] & ~shared[:, 0])[:, None].expand_as(images)
    images[alone] = 0.4 * images[alone] + 0.6 * 0.5
    several = part(masks=shared)
    again = {
        (row["image"], row["target"]): row["share"] for row in measured("separation", part(images=images, masks=shared))
    }
    rows = measured("saliency-bias", several, contrasts=[0.4], impute=constant(0.5))
    faint = {(row["image"], row["target"]): row["share"] for row in rows if row["which"] == "faint"}
    for key in (("a", 2), ("b", 3), ("d", 0)):
        assert faint[key] == pytest.approx(again[key])


def test_segmentation_is_of_classes_that_are_likely():
    target = TARGETS.clamp_min(0)
    probability = MODEL(IMAGES).detach().softmax(1).gather(1, target)
    edge = float(probability[TARGETS >= 0].median())
    several = MODEL(IMAGES).detach().sigmoid().gather(1, target)
    for of, chance, minimum, options in (
        (SUBJECT, probability, edge, {"minimum": edge}),
        (subject(multi_label=True), several, 0.5, {}),
        (subject(multi_label=True), several, 0.0, {"minimum": 0}),
        (SUBJECT, probability, 0.0, {}),
    ):
        expected = [(n, k) for n in range(4) for k in range(2) if TARGETS[n, k] >= 0 and chance[n, k] > minimum]
        rows = measured("segmentation", of=of, **options)
        assert [(row["image"], row["target"]) for row in rows] == [("abcd"[n], int(TARGETS[n, k])) for n, k in expected]
        everything = {(row["image"], row["target"]): row for row in measured("segmentation")}
        assert all(row["mean_iou"] == everything[row["image"], row["target"]]["mean_iou"] for row in rows)
    assert not (several > 0.5).all()
    for wrong in (1, -0.1, "x", True):
        with pytest.raises(OptionsError, match="minimum"):
            measured("segmentation", minimum=wrong)


def test_separation_is_among_objects():
    own, other = ((MAPS.clamp_min(0) * masks).sum((2, 3)) for masks in (MASKS, MASKS.flip(1)))
    share = own / (own + other)
    rows = measured("separation")
    expected = [share[n, k] for n in (0, 1, 3) for k in (0, 1)]
    assert [row["share"] for row in rows] == pytest.approx([float(value) for value in expected])
    assert [row["wins"] for row in rows] == [float(value > 0.5) for value in expected]
    assert measured("separation", part(targets=TARGETS[:, :1], masks=MASKS[:, :1])) == []


def test_saliency_bias_fades_one_object_and_explains_all():
    rows = measured("saliency-bias", contrasts=[1, 0.4], impute=constant(0.5))
    same = measured("separation")
    both = {(row["image"], row["target"]): row for row in same}
    for row in rows:
        if row["step"] == 1:
            assert row["share"] == pytest.approx(both[row["image"], row["target"]]["share"])
    images = IMAGES.clone()
    part_of_it = MASKS[:, 1, None].expand_as(images)
    images[part_of_it] = 0.4 * images[part_of_it] + 0.6 * 0.5
    again = {(row["image"], row["target"]): row["share"] for row in measured("separation", part(images=images))}
    found = [row for row in rows if row["step"] == 0.4]
    faint = [row for row in found if row["which"] == "faint" and row["target"] in (2, 3, 0)][-3:]
    assert [(row["image"], row["target"]) for row in faint] == [("a", 2), ("b", 3), ("d", 0)]
    salient = [row for row in found if row["which"] == "salient"][:3]
    assert [(row["image"], row["target"]) for row in salient] == [("a", 2), ("b", 3), ("d", 0)]  # the first one fades
    for row in faint:
        assert row["share"] == pytest.approx(again[row["image"], row["target"]])
        index = "abcd".index(row["image"])
        assert row["probability"] == pytest.approx(
            float(MODEL(images).detach().softmax(1)[index, row["target"]]), abs=1e-6
        )
    assert not torch.equal(MODEL(images), MODEL(IMAGES))
    for wrong in ([], [0.0], [1.5], "x", [True]):
        with pytest.raises(OptionsError, match="contrasts"):
            measured("saliency-bias", contrasts=wrong)
    assert measured("saliency-bias", part(targets=TARGETS[:, :1], masks=MASKS[:, :1])) == []


def test_mosaics_are_explained_for_each_cell():
    targets = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 2, 2], [0, 0, 0, 0]])
    rows = measured("grid", part(targets=targets, masks=None))
    maps = SUBJECT.explain(IMAGES, targets)
    shares = cell_shares(maps, 2).flatten(2)
    assert [row["share"] for row in rows] == pytest.approx(shares.diagonal(dim1=1, dim2=2).flatten().tolist())
    assert [row["wins"] for row in rows] == (shares.argmax(2) == torch.arange(4)).double().flatten().tolist()
    blank = measured("grid", part(targets=targets, masks=None), Subject(MODEL, lambda x, t: maps * 0))
    assert {(row["share"], row["wins"], row["peak"]) for row in blank} == {(0.25, 0.0, 0.0)}
    with pytest.raises(InputError, match="9 classes"):
        measured("grid", part(targets=targets, masks=None), cells=3)


def test_sanity_restores_the_network():
    of = subject()
    rows = measured("sanity", of=of)
    assert [(row["layer"], row["step"]) for row in rows[::4]] == [("3", 1), ("0", 2)]
    assert torch.equal(of.explain(IMAGES, 1), SUBJECT.explain(IMAGES, 1))
    with pytest.raises(InputError, match="weights anew"):
        measured("sanity", of=Subject(MODEL, SUBJECT.explain))


# What is kept


ABOUT = {"experiment": "segmentation", "model": "digits", "options": {}}
SEGMENTATION = EXPERIMENTS["segmentation"]


def counted(calls, of=SUBJECT):
    def explain(images, target):
        calls.append(len(images))
        return of.explain(images, target)

    return Subject(MODEL, explain)


def test_an_evaluation_goes_on_where_it_stopped(tmp_path):
    calls, told = [], []
    given = {"experiment": SEGMENTATION, "subjects": {"x": counted(calls), "y": counted(calls)}}
    half = [Part.of(BATCH, [0, 1]), Part.of(BATCH, [2, 3])]

    def stopping():
        yield half[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(batches=stopping(), ledger=Ledger(tmp_path, ABOUT), **given)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"method": "x", "images": ["c"], "ro')  # cut off
    assert calls == [2, 2]
    ledger = Ledger(tmp_path, ABOUT)
    evaluate(batches=half, ledger=ledger, told=lambda *what: told.append(what), **given)
    assert calls == [2, 2, 2, 2]
    assert told == [("x", 2), ("y", 2)] * 2
    whole = rows_of(SEGMENTATION, SUBJECT, BATCH)
    assert [row for row in ledger.rows if row["method"] == "x"] == [{"method": "x"} | row for row in whole]
    assert Ledger(tmp_path, ABOUT).rows == ledger.rows
    evaluate(batches=[BATCH], ledger=Ledger(tmp_path, ABOUT), **given)
    assert len(calls) == 4
    with pytest.raises(OptionsError, match="model: 'digits' there, 'other' now"):
        Ledger(tmp_path, ABOUT | {"model": "other"})


def test_an_image_that_fails_costs_no_other(tmp_path):
    broken = IMAGES.clone()
    broken[1] = np.nan
    batch = part(images=broken)
    ledger = Ledger(tmp_path, ABOUT)
    evaluate(SEGMENTATION, {"x": SUBJECT}, [batch], ledger)
    assert {row["image"] for row in ledger.rows} == {"a", "c", "d"}
    assert list(ledger.failures) == [("x", "b")]
    assert "NonFiniteInputError" in ledger.failures["x", "b"]
    again = Ledger(tmp_path, ABOUT)
    assert list(again.failures) == [("x", "b")]
    evaluate(SEGMENTATION, {"x": SUBJECT}, [BATCH], again)  # tried again, with the image as it should be
    assert not again.failures
    assert not Ledger(tmp_path, ABOUT).failures
    assert len(again.rows) == 7


def test_means_have_intervals_over_images():
    rows = [
        {
            "method": method,
            "image": f"{n}",
            "target": k,
            "share": float(n % 10 + shift + 10 * k),
            "wins": 1.0,
            "peak": np.nan,
        }
        for method, shift in (("x", 0), ("y", 1))
        for n in range(100)
        for k in range(2)
    ]
    found = summary(frame(rows), EXPERIMENTS["grid"]).set_index(["method", "measure"])
    share = found.loc["y", "share"]
    assert share["mean"] == pytest.approx(4.5 + 1 + 5)
    half = 1.96 * np.std(np.arange(10)) / 10
    assert share["low"] == pytest.approx(10.5 - half, abs=0.1)
    assert share["high"] == pytest.approx(10.5 + half, abs=0.1)
    assert found.loc["x", "wins"].tolist() == [1, 1, 1, 100]
    assert found.loc["x", "peak"]["images"] == 0
    assert summary(frame(rows), EXPERIMENTS["grid"]).equals(summary(frame(rows), EXPERIMENTS["grid"]))
    alone = summary(frame(row for row in rows if row["image"] == "3"), EXPERIMENTS["grid"])
    assert alone[["low", "high"]].isna().all(axis=None)  # one image has no interval
    assert alone["mean"].notna().sum() == 4
    layers = [{"layer": name} | row for name in "ab" for row in rows]
    assert len(summary(frame(layers), EXPERIMENTS["grid"])) == 2 * 2 * 3


def test_rows_are_json(tmp_path):
    ledger = Ledger(tmp_path, ABOUT)
    evaluate(SEGMENTATION, {"x": SUBJECT}, [BATCH], ledger)
    line = json.loads((tmp_path / "rows.jsonl").read_text())
    assert line["images"] == ["a", "b", "c", "d"]
    assert json.loads((tmp_path / "experiment.json").read_text()) == {**ABOUT, "methods": {}}


def test_objects_without_a_class_are_explained_for_the_likeliest():
    unknown = torch.tensor([[0, 2], [-1, -1], [-1, -1], [3, 0]])
    rows = measured("pointing", part(targets=unknown))
    likeliest = MODEL(IMAGES).argmax(1)
    found = [(row["image"], row["target"]) for row in rows]
    assert found == [("a", 0), ("a", 2), ("b", int(likeliest[1])), ("c", int(likeliest[2])), ("d", 3), ("d", 0)]


def test_datasets_are_evaluated_and_pictures_that_cannot_be_read_are_said(tmp_path):
    folder = tmp_path / "data"
    for name, label in (("one", 1), ("two", 2)):
        for part_of in ("images", "masks"):
            (folder / part_of).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(label).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
            folder / "images" / f"{name}.png"
        )
        mask = np.zeros((8, 8), np.uint8)
        mask[2:5] = label
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    (folder / "classes.txt").write_text("zero\none\ntwo\nthree\n")
    (folder / "images" / "two.png").write_bytes(b"broken")
    data = open_dataset("folder", folder)
    ledger, told = Ledger(tmp_path / "out", ABOUT), []
    prepared = batches(data, Preprocessing(resize=None, crop=(8, 8)), size=2)
    evaluate(SEGMENTATION, {"x": SUBJECT}, prepared, ledger, told=lambda *what: told.append(what))
    assert [row["image"] for row in ledger.rows] == ["one.png"]
    assert told == [("x", 2)]
    ((key, why),) = ledger.failures.items()
    assert key == ("x", "two.png")
    assert "two.png" in why
