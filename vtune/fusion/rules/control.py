"""How the axes around a loop or a choice are those of its bodies."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from vtune.fusion.family import Operand, Site
from vtune.fusion.rules.nodes import Nodes


def _tie(nodes: Nodes, first: Iterable[Operand], second: Iterable[Operand]) -> None:
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one.axes, other.axes, strict=True):
            nodes.same(a, b)


def _tie_steps(
    nodes: Nodes, length: int, stacked: Sequence[Operand], single: Sequence[Operand]
) -> None:
    for whole, one in zip(stacked, single, strict=True):
        nodes.same(whole.axes[0], length)
        for a, b in zip(whole.axes[1:], one.axes, strict=True):
            nodes.same(a, b)


def _relate_scan(site: Site, nodes: Nodes) -> None:
    (body,) = site.bodies
    params = site.wide.params
    start = params["num_consts"]
    end = start + params["num_carry"]
    carried = params["num_carry"]
    assert site.length is not None
    _tie(nodes, site.inputs[:end], body.inputs[:end])
    _tie(nodes, body.inputs[start:end], body.outputs[:carried])
    _tie(nodes, site.outputs[:carried], body.outputs[:carried])
    _tie_steps(nodes, site.length, site.inputs[end:], body.inputs[end:])
    _tie_steps(nodes, site.length, site.outputs[carried:], body.outputs[carried:])


def _relate_while(site: Site, nodes: Nodes) -> None:
    condition, body = site.bodies
    first = site.wide.params["cond_nconsts"]
    second = first + site.wide.params["body_nconsts"]
    carry = site.inputs[second:]
    _tie(nodes, (*site.inputs[:first], *carry), condition.inputs)
    _tie(nodes, site.inputs[first:], body.inputs)
    _tie(nodes, carry, body.outputs)
    _tie(nodes, carry, site.outputs)


def _relate_cond(site: Site, nodes: Nodes) -> None:
    for branch in site.bodies:
        _tie(nodes, site.inputs[1:], branch.inputs)
        _tie(nodes, site.outputs, branch.outputs)


CONTROL: Mapping[str, Callable[[Site, Nodes], None]] = {
    "scan": _relate_scan,
    "while": _relate_while,
    "cond": _relate_cond,
}
