"""The validating room's peers, for attributes, calls and models; and how much of what is wrong is let through."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Figure, Finding, Room, require
from ferrule._compare.validating import (
    ITEMS,
    bare,
    bare_items,
    calling,
    calling_by_name,
    calling_with_items,
    getting,
    making,
    setting,
)
from ferrule._compare.validating import room as compared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ferrule._compare.harness import Factory, Row, Run

    Function = Callable[..., Any]
    Decorate = Callable[[Function], Function]


def room(*, quick: bool) -> Room:
    """Describes the rows and figures; with `quick` fewer lists are tried."""
    own = compared()
    attributes: Mapping[str, Function] = {
        "attrs": attrs_class,
        "traitlets": traitlets_class,
        "pydantic": pydantic_class,
        "param": param_class,
    }
    models: Mapping[str, Function] = {"attrs": attrs_model, "pydantic": pydantic_model}
    peers: Mapping[str, Mapping[str, Factory]] = {
        "set": {label: partial(_instance, setting, make) for label, make in attributes.items()},
        "get": {label: partial(_instance, getting, make) for label, make in attributes.items()},
        "call": {label: partial(_decorated, calling, make, bare) for label, make in DECORATORS.items()},
        "call_keyword": {label: partial(_decorated, calling_by_name, make, bare) for label, make in DECORATORS.items()},
        "items": {
            label: partial(_decorated, calling_with_items, make, bare_items) for label, make in DECORATORS.items()
        },
        "model": {label: partial(_model, make) for label, make in models.items()},
    }
    tries = 200 if quick else 2_000
    return replace(
        own,
        rows=[beside_beartype(row.joined_by(peers.get(row.id, {}))) for row in own.rows],
        figures=[missed(tries)],
    )


def _instance(run: Callable[[Any], Run], make: Function) -> Run:
    return run(make()())


def _decorated(run: Callable[[Function], Run], decorate: Decorate, function: Function) -> Run:
    return run(decorate(function))


def _model(make: Function) -> Run:
    return making(make())


def beside_beartype(row: Row) -> Row:
    """Every item is to cost no more than beartype takes for one."""
    return replace(row, baseline="beartype", goal=1.0) if row.id == "items" else row


# The peers, each as its documentation shows it.


def attrs_class() -> Any:
    attrs = require("attrs")
    v = attrs.field(default=0, validator=attrs.validators.instance_of(int))
    # Without this, it is only the constructor that looks.
    return attrs.make_class("Peer", {"v": v}, on_setattr=attrs.setters.validate)


def traitlets_class() -> Any:
    traitlets = require("traitlets")
    return type("Peer", (traitlets.HasTraits,), {"v": traitlets.Int(0)})


def pydantic_class() -> Any:
    pydantic = require("pydantic")
    return pydantic.create_model("Peer", __config__=pydantic.ConfigDict(validate_assignment=True), v=(int, 0))


def param_class() -> Any:
    param = require("param")
    return type("Peer", (param.Parameterized,), {"v": param.Integer(0)})


def attrs_model() -> Any:
    attrs = require("attrs")
    of, ge, le = attrs.validators.instance_of, attrs.validators.ge, attrs.validators.le
    fields = {
        "name": attrs.field(validator=[of(str), attrs.validators.min_len(1)]),
        "rate": attrs.field(validator=[of((int, float)), ge(0), le(500)]),
        "age": attrs.field(default=0, validator=[of(int), ge(0), le(150)]),
    }
    return attrs.make_class("Peer", fields, kw_only=True)


def pydantic_model() -> Any:
    pydantic = require("pydantic")
    name = (str, pydantic.Field(min_length=1))
    rate = (float, pydantic.Field(ge=0, le=500))
    age = (int, pydantic.Field(default=0, ge=0, le=150))
    return pydantic.create_model("Peer", name=name, rate=rate, age=age)


def beartype(function: Function) -> Function:
    decorated: Function = require("beartype").beartype(function)
    return decorated


def pydantic_call(function: Function) -> Function:
    decorated: Function = require("pydantic").validate_call(validate_return=True)(function)
    return decorated


def typeguard(function: Function) -> Function:
    decorated: Function = require("typeguard").typechecked(function)
    return decorated


DECORATORS: Mapping[str, Decorate] = {
    "beartype": beartype,
    "pydantic": pydantic_call,
    "typeguard": typeguard,
}


# What is found.


def missed(tries: int) -> Figure:
    return Figure(
        id="missed",
        title=f"lists of {ITEMS} with one item of the wrong type, at each place by turns, that are let through",
        unit="%",
        goal=0.0,
        truth=0.0,
        candidates={
            "ferrule": partial(let_through, tries, ferrule_items),
            "ferrule, a sample": partial(let_through, tries, ferrule_sample),
            "beartype": partial(let_through, tries, lambda: beartype(bare_items)),
            "pydantic": partial(let_through, tries, lambda: pydantic_call(bare_items)),
            "typeguard": partial(let_through, tries, lambda: typeguard(bare_items)),
        },
    )


def ferrule_items() -> Function:
    from ferrule import enforce_types

    decorated: Function = enforce_types(bare_items)
    return decorated


def ferrule_sample() -> Function:
    from ferrule import enforce_types

    decorated: Function = enforce_types(depth="sample")(bare_items)
    return decorated


def let_through(tries: int, make: Callable[[], Function]) -> Finding:
    function = make()
    passed = 0
    for number in range(tries):
        items: list[Any] = list(range(ITEMS))
        items[number % ITEMS] = "wrong"
        try:
            function(items)
        except Exception:  # noqa: BLE001 - each has an exception of its own
            continue
        passed += 1
    return Finding(100 * passed / tries, f"{passed} of {tries:,}")
