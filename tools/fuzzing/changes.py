"""Ways to spoil a file: its bytes, or the data inside."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

EVIL = "__import__('pathlib').Path('broken-in').touch()"
_VALUES = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, -(2**63), 10**30, 1.5, 1e308, float("nan")),
    *("", "x", "N", "K", EVIL, f"**({EVIL} and {{}})", "class", "\0", "\ud800", "../../x", "images", "target"),
    *(
        [],
        {},
        [[]],
        {"node": 0},
        {"node": 5},
        {"map": {EVIL: 1}},
        {"float": "nan"},
        {"dtype": "float16"},
        ["Pow", 9, 9],
    ),
    *(["Pow", "N", 3], ["ratio", EVIL, 1], ["Mod", "N", 2], ["int", 5], {"device": "meta"}, {"size": "N"}),
]
_OPERATIONS = [
    *("relu.default", "neg.default", "abs.default", "sigmoid.default", "add.Tensor", "sub.Tensor", "mul.Tensor"),
    *("div.Tensor", "add_.Tensor", "mul_.Tensor", "relu_.default", "zero_.default", "from_file.default", "getitem"),
    *("conv2d.default", "linear.default", "reshape.default", "expand.default", "sum.dim_IntList", "cumsum.default"),
    *("max_pool2d_with_indices_backward.default", "index_select.default", "gather.default", "sort.stable"),
    *("as_strided.default", "rand_like.default", "new_ones.default", "empty_like.default", "flip.default"),
]


def spoiled(content: bytes, random: Random) -> bytes:
    """Bytes flipped, cut, doubled, zeroed, or filled with others."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 8, 64))):
        place = random.randrange(len(changed)) if changed else 0
        length = random.choice((1, 4, 64, 1024))
        match random.randrange(8):
            case 0 | 1 | 2:
                if changed:
                    changed[place] ^= 1 << random.randrange(8)
            case 3:
                del changed[place:]
            case 4:
                del changed[place : place + length]
            case 5:
                changed[place:place] = changed[place : place + length]
            case 6:
                changed[place : place + length] = bytes(len(changed[place : place + length]))
            case 7:
                changed[place : place + length] = random.randbytes(len(changed[place : place + length]))
    return bytes(changed)


def forged(data: Any, random: Random) -> Any:
    """Data of the same form with a few entries replaced: by others of their kind, by neighbours, by anything."""
    changed = copy.deepcopy(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = list(_places(changed))
        likely = [(holder, key) for holder, key in places if key == "node" or _is_operation(holder[key])]
        if likely and random.random() < 0.6:  # a graph that is nearly right
            holder, key = random.choice(likely)
            holder[key] = (
                random.randrange(abs(holder[key]) + 1) if type(holder[key]) is int else _neighbour(holder[key], random)
            )
            continue
        holder, key = random.choice(places)
        value = holder[key]
        match random.randrange(6):
            case 0:
                holder[key] = copy.deepcopy(random.choice(_VALUES))
            case 1 | 2:
                holder[key] = _neighbour(value, random)
            case 3:
                other, place = random.choice(places)
                holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(value)
            case 4:
                other, place = random.choice(places)
                holder[key] = copy.deepcopy(other[place])
            case 5:
                if isinstance(holder, list):
                    holder.insert(key, value) if random.random() < 0.5 else holder.pop(key)
                else:
                    holder[random.choice(("extra", EVIL, "groups", "node", "map"))] = holder.pop(key)
    return changed


def _is_operation(value: Any) -> bool:
    return isinstance(value, str) and "." in value and value.partition(".")[2] in ("default", "Tensor", "Scalar", "int")


def _neighbour(value: Any, random: Random) -> Any:
    """Another value that could stand there."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + random.choice((-2, -1, 1, 2, 5))
    if isinstance(value, str):
        return random.choice(_OPERATIONS) if "." in value else random.choice((value + "_", value[1:], EVIL))
    if isinstance(value, list):
        return random.sample(value, len(value))
    return value


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Every entry of nested lists and dictionaries: what holds it, and where."""
    found, open_ = [], [data]
    while open_:
        holder = open_.pop()
        entries = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, value in list(entries):
            found.append((holder, key))
            if isinstance(value, list | dict):
                open_.append(value)
    return found
