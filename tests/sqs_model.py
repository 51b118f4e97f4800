"""The service model of SQS as botocore ships it: what operations there are, and what goes in and comes out."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from botocore.loaders import Loader

MODEL: dict[str, Any] = Loader().load_service_model("sqs", "service-2")
SHAPES: dict[str, Any] = MODEL["shapes"]
OPERATIONS: tuple[str, ...] = tuple(sorted(MODEL["operations"]))
ERROR_KINDS: tuple[str, ...] = tuple(sorted(name for name, shape in SHAPES.items() if shape.get("exception")))
QUEUE_ATTRIBUTES: tuple[str, ...] = tuple(SHAPES["QueueAttributeName"]["enum"])
MESSAGE_ATTRIBUTES: tuple[str, ...] = tuple(SHAPES["MessageSystemAttributeName"]["enum"])

_PYTHON = {"string": str, "integer": int, "long": int, "boolean": bool, "list": list, "map": dict, "structure": dict}


def input_shape(operation: str) -> str:
    name: str = MODEL["operations"][operation]["input"]["shape"]
    return name


def output_shape(operation: str) -> str | None:
    """None for an operation that answers nothing."""
    output = MODEL["operations"][operation].get("output")
    return output["shape"] if output else None


def members(shape: str) -> dict[str, str]:
    """The names of the shapes of a structure's members."""
    return {name: member["shape"] for name, member in SHAPES[shape]["members"].items()}


def kind(shape: str) -> str:
    found: str = SHAPES[shape]["type"]
    return found


def takes_queue_url(operation: str) -> bool:
    return "QueueUrl" in members(input_shape(operation))


def every_member(shape: str, below: tuple[str, ...] = ()) -> Iterator[str]:
    """`Shape.Member` for all that a structure holds, however deep."""
    if kind(shape) == "list":
        yield from every_member(SHAPES[shape]["member"]["shape"], below)
    elif kind(shape) == "map":
        yield from every_member(SHAPES[shape]["value"]["shape"], below)
    elif kind(shape) == "structure" and shape not in below:
        for name, member in members(shape).items():
            yield f"{shape}.{name}"
            yield from every_member(member, (*below, shape))


def touched_members(shape: str, value: Any) -> Iterator[str]:
    """Those of `every_member` that a value has. What is no list, map or structure where one should be is passed by."""
    if kind(shape) == "list" and isinstance(value, list):
        for each in value:
            yield from touched_members(SHAPES[shape]["member"]["shape"], each)
    elif kind(shape) == "map" and isinstance(value, dict):
        for each in value.values():
            yield from touched_members(SHAPES[shape]["value"]["shape"], each)
    elif kind(shape) == "structure" and isinstance(value, dict):
        for name, each in value.items():
            if name in members(shape):
                yield f"{shape}.{name}"
                yield from touched_members(members(shape)[name], each)


def assert_of_shape(shape: str, value: Any, place: str) -> None:
    """What a server answered is what the model says: nothing else, nothing of another type, nothing missing."""
    what = kind(shape)
    if what == "blob":
        b64decode(value, validate=True)
        return
    assert type(value) is _PYTHON[what], (place, value)
    if what == "list":
        for index, each in enumerate(value):
            assert_of_shape(SHAPES[shape]["member"]["shape"], each, f"{place}[{index}]")
    elif what == "map":
        names = SHAPES[SHAPES[shape]["key"]["shape"]].get("enum")
        for name, each in value.items():
            assert names is None or name in names, (place, name)
            assert_of_shape(SHAPES[shape]["value"]["shape"], each, f"{place}.{name}")
    elif what == "structure":
        known = members(shape)
        for name, each in value.items():
            assert name in known, (place, name)
            assert_of_shape(known[name], each, f"{place}.{name}")
        for name in SHAPES[shape].get("required", ()):
            assert name in value or kind(known[name]) == "list", (place, name)  # empty lists are left out
