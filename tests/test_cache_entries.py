"""Entries of the cache are data: whatever is written into one, no code runs, nothing is touched, no map is wrong."""

from __future__ import annotations

import copy
import json
import os
import stat
import time
import warnings
import zlib

import pytest
import safetensors.torch
import torch
from networks import basic_resnet, small_vgg
from test_cache import FROM_DISK, Variable, cache, explained, images

import agf_fx
from agf_fx.ir import serial
from agf_fx.methods.agf import attribution_guided_factorization
from agf_fx.options import AGFOptions
from agf_fx.pipeline import analyse, lower, optimisations
from agf_fx.store import CacheWarning, disk, entries
from agf_fx.store.folders import secret

__all__ = ["cache"]  # a fixture that every test here uses

EVIL = "__import__('pathlib').Path('broken-in').touch()"


@pytest.fixture(scope="module")
def written():
    """A canonical graph, and its data and that of its explanation."""
    canonical = analyse(agf_fx.capture(small_vgg(bn=False), images()))
    explanation = lower(
        canonical, attribution_guided_factorization(AGFOptions()), optimisations=optimisations(in_place=True)
    )
    return canonical, serial.write_canonical(canonical), serial.write_explanation(explanation)


@pytest.fixture(autouse=True)
def nothing_is_touched(tmp_path, monkeypatch):
    """What an entry could do would be done in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "broken-in").exists()


def refused(written, change):
    """Apply a change to the data of either graph; it must not be read."""
    canonical, (data, constants), explanation = written
    found = 0
    for original, read in (
        (data, lambda d: serial.read_canonical(d, constants)),
        (explanation, lambda d: serial.read_explanation(d, canonical)),
    ):
        forged = copy.deepcopy(original)
        if change(forged["graph"]) is False:
            continue
        found += 1
        with pytest.raises(serial.Unreadable):
            read(json.loads(json.dumps(forged)))
    assert found


def call(graph, name):
    """The first call of an operation, or of any of several."""
    names = (name,) if isinstance(name, str) else name
    places = [place for place, entry in enumerate(graph["table"]) if entry in names]
    return next((node for node in graph["nodes"] if node[0] == "call_function" and node[2] in places), None)


def retarget(graph, old, new):
    graph["table"] = [new if entry == old else entry for entry in graph["table"]]


KEYWORDS = [
    {f"**({EVIL} and {{}} or {{}}), groups": 1},
    {"groups": 1},
    {"input": {"node": 0}},
    {"nosuch": 1},
    {"": 1},
    {f"a={EVIL}, b": 1},
]


@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
def test_keyword_arguments_are_those_of_the_operation(written, keywords):
    def change(graph):
        call(graph, "conv2d.default")[4] = {"map": keywords}

    refused(written, change)


NAMES = [EVIL, "x = 1\n", "class", "f'{x}'", "a b", "é", "x:int", "*x", "", 3, None, ["x"], "x\0", "x" * 5000]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("place", [0, 1, 5, -1])
def test_names_are_identifiers(written, name, place):
    refused(written, lambda graph: graph["nodes"][place].__setitem__(1, name))


OPERATIONS = [
    *("from_file.default", "zero_.default", "add_.Tensor", "copy_.default", "set_.source_Storage", "resize_.default"),
    *("rand_like.default", "bernoulli.p", "as_strided.default", "system.default", "__class__.__name__", "ops.aten"),
    *("_foobar.default", "conv2d.__call__", "save.default", "record_stream.default", "embedding_renorm_.default"),
    *("nonzero.default", "_local_scalar_dense.default", "relu", "", "getitem.x", 7, None, {"size": "N"}),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_operations_are_those_of_the_list(written, operation):
    refused(written, lambda graph: retarget(graph, "relu.default", operation))


ARGUMENTS = [
    *(True, "1", EVIL, None, 1.5, 2**63, -(2**70), [], [1, "x"], {"float": "nan"}, {"node": 10**6}, {"node": -1}),
    *({"node": "0"}, {"node": True}, {"map": {}}, {"device": "cpu"}, {"dtype": "float32"}, {"dtype": "Tensor"}, {}),
    *({"dtype": EVIL}, {"node": 0, "map": {}}, {"what": 1}, [[[[]]]], {"float": EVIL}, {"layout": "sparse_coo"}),
]


@pytest.mark.parametrize("argument", ARGUMENTS, ids=str)
def test_arguments_are_those_of_the_schema(written, argument):
    def change(graph):
        call(graph, "conv2d.default")[3][6] = argument  # groups

    refused(written, change)


@pytest.mark.parametrize("count", [0, 1, 8, 40])
def test_calls_have_as_many_arguments_as_the_schema_asks_for(written, count):
    def change(graph):
        node = call(graph, "conv2d.default")
        node[3] = (node[3] * 8)[:count]

    refused(written, change)


SIZES = [
    *(
        ["ratio", [EVIL]],
        ["ratio", EVIL, 1],
        ["ratio", "1e999999999", 1],
        ["ratio", 1, 0],
        ["int", EVIL],
        EVIL,
        "M",
        "",
    ),
    *(["Pow", 9, ["Pow", 9, 9]], ["Pow", "N", "N"], ["Pow", "N", 10**9], ["Pow", ["Add", "N", ["Mul", -1, "N"]], -1]),
    *(
        ["Mod", ["Pow", 9, 99999999], 7],
        ["Mod", "N", 0],
        ["exp", "N"],
        ["Symbol", "x"],
        ["Add"],
        [],
        [[]],
        None,
        True,
        1.5,
    ),
    *(
        2**60,
        -(2**60),
        ["Add", *["N"] * 10**4],
        {"size": "N"},
        ["floor", "N", "K"],
        ["Mul", 1, EVIL],
        -3,
        ["int", True],
    ),
]


@pytest.mark.parametrize("size", [*SIZES, "deep"], ids=str)
def test_sizes_are_bounded_expressions(written, size):
    if size == "deep":
        for _ in range(500):
            size = size if isinstance(size, list) else "N"
            size = ["Pow", size, 2]

    def change(graph):
        for entry in graph["table"]:
            if isinstance(entry, dict) and "tensor" in entry:
                entry["tensor"][1][-1] = size

    started = time.monotonic()
    refused(written, change)
    assert time.monotonic() - started < 2


def drop_output(graph):
    del graph["nodes"][-1]


def swap_outputs(graph):
    results = graph["nodes"][-1][3][0]
    if not isinstance(results, list):
        return False
    results.reverse()
    return None


def one_output(graph):
    results = graph["nodes"][-1][3][0]
    if not isinstance(results, list):
        return False
    del results[1:]
    return None


def return_the_input(graph):
    results = graph["nodes"][-1][3]
    results[0] = {"node": 0} if isinstance(results[0], dict) else [{"node": 0}, results[0][1]]


def output_in_the_middle(graph):
    graph["nodes"].insert(5, graph["nodes"][-1])


def one_placeholder_less(graph):
    del graph["nodes"][1]


def another_placeholder(graph):
    graph["nodes"][2][1] = "another"


def placeholder_behind_calls(graph):
    graph["nodes"].insert(-1, ["placeholder", "late", 0, [], {"map": {}}, [-1] * len(graph["meta"])])


def read_what_comes_later(graph):
    call(graph, "relu.default")[3][0] = {"node": len(graph["nodes"]) - 2} if call(graph, "relu.default") else None


def an_attribute(graph):
    graph["nodes"][3][0] = "get_attr"


def a_method(graph):
    node = call(graph, "conv2d.default")
    node[0] = "call_method"


def other_labels(graph):
    graph["meta"][0] = "tensor_meta"


def fewer_labels(graph):
    graph["nodes"][4][5].pop()


def an_unknown_label(graph):
    graph["nodes"][4][5][1] = len(graph["table"])


def a_negative_label(graph):
    graph["nodes"][4][5][1] = -2


def a_wrong_type(graph):
    for entry in graph["table"]:
        if isinstance(entry, dict) and "tensor" in entry and len(entry["tensor"][1]) > 3:
            entry["tensor"][1][-1] += 1


def a_wrong_dtype(graph):
    for entry in graph["table"]:
        if isinstance(entry, dict) and "tensor" in entry:
            entry["tensor"][0] = "int64"


def swapped_operands(graph):
    node = call(graph, "conv2d.default")
    node[3][:2] = node[3][1::-1]


def a_kernel_of_no_map(graph):
    call(graph, "conv2d.default")[3][3:6] = [[0, 0], [-1, -1], [-1, -1]]


STRUCTURES = [
    *(drop_output, swap_outputs, one_output, return_the_input, output_in_the_middle, one_placeholder_less),
    *(another_placeholder, placeholder_behind_calls, read_what_comes_later, an_attribute, a_method, other_labels),
    *(
        fewer_labels,
        an_unknown_label,
        a_negative_label,
        a_wrong_type,
        a_wrong_dtype,
        swapped_operands,
        a_kernel_of_no_map,
    ),
]


@pytest.mark.parametrize("change", STRUCTURES, ids=lambda change: change.__name__)
def test_graphs_are_whole(written, change):
    refused(written, change)


def test_only_values_of_the_graph_itself_are_overwritten(written):
    canonical, _, data = written
    writers = [
        entry for entry in data["graph"]["table"] if isinstance(entry, str) and entry.partition(".")[0].endswith("_")
    ]
    assert writers  # buffers are reused
    tried = 0
    for place, node in enumerate(data["graph"]["nodes"]):
        if node[0] != "call_function" or data["graph"]["table"][node[2]] not in writers:
            continue
        for source in range(min(place, 60)):  # inputs, and values that are read again
            forged = copy.deepcopy(data)
            operand = forged["graph"]["nodes"][place][3][0]
            if operand == {"node": source} or data["graph"]["nodes"][source][0] != "placeholder":
                continue
            operand["node"] = source
            with pytest.raises(serial.Unreadable):
                serial.read_explanation(forged, canonical)
            tried += 1
        if tried > 20:
            return


# --- files


def forge(cache, change):
    """Change the data of every entry, and sign it as the user's own process would."""
    for path in sorted(cache.graphs.iterdir()):
        key, signing = path.stem, secret(cache.root)
        entry = entries.unpacked(path.read_bytes(), key, signing)
        change(entry.data)
        path.write_bytes(entries.packed(entry, key, signing))
    agf_fx.cache.forget()


def recompiles(match="damaged"):
    with pytest.warns(CacheWarning, match=match):
        found, took = explained(small_vgg())
    expected, _ = explained(small_vgg(), compile_options=agf_fx.CompileOptions(cache="off"))
    assert torch.equal(found, expected)
    return took


def test_a_forged_entry_costs_a_warning_and_the_making(cache):
    explained(small_vgg())

    def evil(data):
        graph = data["canonical"]["graph"] if "canonical" in data else data["graph"]
        call(graph, "conv2d.default")[4] = {"map": {f"**({EVIL} and {{}} or {{}}), groups": 1}}

    forge(cache, evil)
    took = recompiles()
    assert took.captures == took.emissions == 1


def test_an_entry_of_another_network_is_refused(cache):
    """Every part of it is in order, but the model has other weights."""
    explained(small_vgg())
    own = {path.stem for path in cache.graphs.iterdir()}
    agf_fx.cache.forget()
    explained(basic_resnet(), 16)
    signing = secret(cache.root)
    paths = {path.stem: path for path in cache.graphs.iterdir()}
    contents = {key: entries.unpacked(path.read_bytes(), key, signing) for key, path in paths.items()}
    for key in own:
        kind = "canonical" in contents[key].data
        other = next(
            entry for name, entry in contents.items() if name not in own and ("canonical" in entry.data) is kind
        )
        paths[key].write_bytes(entries.packed(other, key, signing))
    agf_fx.cache.forget()
    took = recompiles()
    assert took.captures == took.emissions == 1


def test_an_entry_that_another_hand_has_signed_is_not_looked_into(cache, monkeypatch):
    explained(small_vgg())
    for path in cache.graphs.iterdir():
        entry = entries.unpacked(path.read_bytes(), path.stem, secret(cache.root))
        path.write_bytes(entries.packed(entry, path.stem, b"of an attacker"))
    agf_fx.cache.forget()
    monkeypatch.setattr(safetensors.torch, "load", pytest.fail)
    recompiles("checksum is wrong")


def test_a_flipped_bit_of_a_constant_is_noticed(cache):
    expected, _ = explained(Variable())
    constant = torch.full((1,), 1.5, dtype=torch.float64).sqrt().numpy().tobytes()
    (path,) = (path for path in cache.graphs.iterdir() if constant in path.read_bytes())
    content = bytearray(path.read_bytes())
    content[content.index(constant) + 7] ^= 1
    path.write_bytes(content)
    agf_fx.cache.forget()
    with pytest.warns(CacheWarning, match="checksum"):
        found, _ = explained(Variable())
    assert torch.equal(found, expected)


def replaced(cache, how):
    for path in cache.graphs.iterdir():
        content = path.read_bytes()
        path.unlink()
        if how == "pipe":
            os.mkfifo(path)
        elif how == "link to a device":
            path.symlink_to("/dev/zero")
        elif how == "link to itself":
            path.symlink_to(path)
        elif how == "sparse":
            with open(path, "wb") as file:
                file.truncate(2**40)
        elif how == "bomb":
            bomb = zlib.compressobj(9)
            data = b"".join([*(bomb.compress(bytes(2**22)) for _ in range(64)), bomb.flush()])
            payload = safetensors.torch.save({"data": torch.frombuffer(bytearray(data), dtype=torch.uint8)})
            signature = entries._signature(payload, secret(cache.root))
            path.write_bytes(entries._MAGIC + signature + b"\n" + payload)
        elif how == "elsewhere":
            other = cache.root / "elsewhere"
            other.write_bytes(content)
            path.symlink_to(other)


HOWS = ["pipe", "link to a device", "link to itself", "sparse", "bomb", "elsewhere"]


@pytest.mark.parametrize("how", HOWS)
def test_what_is_no_file_of_the_cache_is_neither_waited_for_nor_read(cache, how):
    explained(small_vgg())
    replaced(cache, how)
    agf_fx.cache.forget()
    started = time.monotonic()
    took = recompiles("cannot be read|damaged")
    assert time.monotonic() - started < 30
    assert took.captures == 1
    agf_fx.cache.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explained(small_vgg())[1] == FROM_DISK  # it has been replaced
    if how == "elsewhere":
        assert (cache.root / "elsewhere").stat().st_size > 0


def test_deeply_nested_data_is_damaged(cache):
    explained(small_vgg())
    path = next(cache.graphs.iterdir())
    deep = zlib.compress(b"[" * 10**6)
    payload = safetensors.torch.save({"data": torch.frombuffer(bytearray(deep), dtype=torch.uint8)})
    path.write_bytes(entries._MAGIC + entries._signature(payload, secret(cache.root)) + b"\n" + payload)
    agf_fx.cache.forget()
    recompiles()


# --- folders


def test_folders_are_the_users_alone(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("AGF_FX_CACHE_DIR", str(tmp_path / "deep" / "cache"))
    before = os.umask(0)
    try:
        explained(small_vgg())
    finally:
        os.umask(before)
    root = tmp_path / "deep" / "cache"
    for path in (root.parent, root, *(root / name for name in ("graphs", "locks", "inductor"))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert stat.S_IMODE((root / "key").stat().st_mode) == 0o600


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGF_FX_CACHE_DIR", "~/cache of mine")
    assert agf_fx.cache.folder() == tmp_path / "cache of mine"
    monkeypatch.setenv("AGF_FX_CACHE_DIR", "~nobody-of-that-name/x")
    with pytest.raises(agf_fx.errors.OptionsError, match="AGF_FX_CACHE_DIR"):
        agf_fx.cache.folder()


@pytest.mark.parametrize("part", ["graphs", "inductor", "locks"])
def test_links_to_elsewhere_are_not_followed(cache, part, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    mine = [elsewhere / "mine.txt", elsewhere / f"{'a' * 64}.agf", elsewhere / "ab" / "kernel.so"]
    mine[2].parent.mkdir()
    for path in mine:
        path.write_text("of the user")
    cache.root.mkdir()
    (cache.root / part).symlink_to(elsewhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        explained(small_vgg())
    assert agf_fx.cache.prune(max_bytes=0) >= 0
    agf_fx.cache.clear()
    assert all(path.read_text() == "of the user" for path in mine)
    assert len(list(elsewhere.iterdir())) == 3


def test_files_of_the_user_stay(cache):
    mine = [cache.root / part / name for part in ("graphs", "locks", "inductor") for name in ("mine.txt", "data/x.npy")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of the user")
    explained(small_vgg())
    assert disk.Disk(cache.root).writable_artefacts() is None  # a folder that agf-fx has not made
    assert agf_fx.cache.clear().graphs == 2
    assert agf_fx.cache.prune(older_than=0) == 0
    assert all(path.read_text() == "of the user" for path in mine)
