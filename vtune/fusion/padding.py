"""What padding can hold at every place of a program, and where it has to be masked."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from vtune.fusion.family import Family, Operand, Site, SiteBody
from vtune.fusion.flat import Atom, Constant, Equation
from vtune.fusion.layout import Layout
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules.contents import (
    ANY,
    FINITE,
    ZERO,
    Contents,
    is_zero,
    join,
)
from vtune.fusion.rules.rule import Place, Plan, Rule, Step, is_whole
from vtune.fusion.rules.table import RULES


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """An equation, and what it needs inside the envelope.

    Args:
        step: the equation with its axes placed.
        atoms: what it reads.
        masks: for each operand what stands in for its padding, None to leave it.
        rule: how its results are computed; None if nothing varies, or of control flow.
        bodies: of scan, while and cond.
        length: of a scan over a varying number of steps, where the steps lie.
        variant: what else the rule decides by the members' sizes.
        resets: for each result what its padding is taken from as soon as it is
            computed, to be zero: an argument that has zeros there, or the number. None
            leaves it.
    """

    step: Step
    atoms: tuple[Atom, ...]
    masks: tuple[Any, ...]
    rule: Rule | None
    bodies: "tuple[PlannedBody, ...]" = ()
    length: Layout | None = None
    variant: Hashable = None
    resets: tuple[Atom | int | None, ...] = ()

    @property
    def equation(self) -> Equation:
        """The envelope's equation."""
        return self.step.equation


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PlannedBody:
    """Planned equations in an order in which they can be computed.

    Args:
        inputs: what is handed in.
        equations: the equations.
        outputs: what is handed out.
        results: where that lies, and what its padding holds.
    """

    inputs: tuple[Atom, ...]
    equations: tuple[Planned, ...]
    outputs: tuple[Atom, ...]
    results: tuple[Place, ...]


# What is known of a value: what its padding holds, and whether it is tame.
Known = tuple[Contents, bool]


def plan(
    family: Family,
    layouts: Sequence[Layout],
    constants: Mapping[int, Place],
    inputs: Sequence[Known],
    kept: Mapping[Operand, Atom | int],
) -> PlannedBody:
    """Follows padding through a function.

    What is kept for the next step has zeros in its padding as soon as it is computed,
    and all that is computed from it reads them. Were they set at the end alone, the
    compiler would have two values where one would do: it would compute an optimizer's
    next moments once more for the parameters, and copy the moments before. Zeros are
    taken from the value before, which is at hand; what is chosen from two arrays is not
    computed twice, what is chosen from an array and a number may be.

    Args:
        family: the function of all members.
        layouts: the layout of each node.
        constants: what is known of each constant, by slot.
        inputs: what is known of each argument.
        kept: which results are kept, and where each has its zeros from.

    Returns:
        The planned function.

    Raises:
        Refusal: where an equation cannot be computed inside the envelope, with the
            equation and the user's line.
    """
    return _Planning(layouts, constants, kept).body(family.body, inputs)


class _Planning:
    """The places of one function's operands while it is walked."""

    def __init__(
        self,
        layouts: Sequence[Layout],
        constants: Mapping[int, Place],
        kept: Mapping[Operand, Atom | int],
    ):
        self._layouts = layouts
        self._constants = constants
        self._kept = kept
        self._loops: Mapping[str, Callable[..., Planned]] = {
            "scan": self._scan,
            "while": self._while,
            "cond": self._cond,
        }

    def body(self, body: SiteBody, inputs: Sequence[Known]) -> PlannedBody:
        places: dict[Operand, Place] = {}
        for operand, (contents, tame) in zip(body.inputs, inputs, strict=True):
            places[operand] = self._place(operand, contents, tame)
        equations = []
        for site in body.sites:
            operands = tuple([self._read(o, places) for o in site.inputs])
            planned = self._reset(site, self._site(site, operands))
            places.update(zip(site.outputs, planned.step.results))
            equations.append(planned)
        return PlannedBody(
            tuple([operand.atom for operand in body.inputs]),
            tuple(equations),
            tuple([operand.atom for operand in body.outputs]),
            tuple([self._read(operand, places) for operand in body.outputs]),
        )

    def _read(self, operand: Operand, places: Mapping[Operand, Place]) -> Place:
        if isinstance(operand.atom, Constant):
            return self._constants[operand.atom.slot]
        return places[operand]

    def _place(self, operand: Operand, contents: Contents, tame: bool) -> Place:
        layouts = tuple([self._layouts[node] for node in operand.axes])
        place = Place(operand.aval, layouts)
        whole = is_whole(operand.aval)
        if not place.padded:
            contents = None
        elif contents is None or contents is ANY:
            contents = FINITE if whole else ANY
        return Place(operand.aval, layouts, contents, tame or whole)

    def _site(self, site: Site, operands: tuple[Place, ...]) -> Planned:
        if site.bodies:
            return self._loops[site.name](site, operands)
        results = tuple([self._place(o, None, False) for o in site.outputs])
        step = Step(site.wide, operands, results)
        rule = RULES.get(site.name)
        atoms = tuple([operand.atom for operand in site.inputs])
        if rule is None:
            return Planned(step, atoms, (None,) * len(atoms), None)
        found = self._asked(rule, step)
        results = self._known(site, zip(found.contents, found.tame))
        varies = any(place.padded for place in (*operands, *results))
        step = Step(site.wide, operands, results)
        rule = rule if varies else None
        return Planned(step, atoms, found.masks, rule, variant=found.variant)

    def _reset(self, site: Site, planned: Planned) -> Planned:
        """The equation, with zeros in the padding of what is kept."""
        places = planned.step.results
        resets = tuple(
            self._kept.get(operand)
            if place.padded and not is_zero(place.contents)
            else None
            for operand, place in zip(site.outputs, places, strict=True)
        )
        if set(resets) <= {None}:
            return planned
        zeroed = tuple(
            place if zeros is None else dataclasses.replace(place, contents=ZERO)
            for place, zeros in zip(places, resets)
        )
        step = dataclasses.replace(planned.step, results=zeroed)
        return dataclasses.replace(planned, step=step, resets=resets)

    def _asked(self, rule: Rule, step: Step) -> Plan:
        try:
            return rule.plan(step)
        except Refusal as refusal:
            if refusal.primitive is None:
                raise Refusal(refusal.reason, step.equation) from None
            raise

    def _known(self, site: Site, known: Any) -> tuple[Place, ...]:
        return tuple(
            [
                self._place(operand, contents, tame)
                for operand, (contents, tame) in zip(site.outputs, known, strict=True)
            ]
        )

    def _control(
        self,
        site: Site,
        operands: tuple[Place, ...],
        bodies: Sequence[PlannedBody],
        results: Sequence[Known],
        length: Layout | None = None,
    ) -> Planned:
        step = Step(site.wide, operands, self._known(site, results))
        atoms = tuple([operand.atom for operand in site.inputs])
        masks = (None,) * len(atoms)
        return Planned(step, atoms, masks, None, tuple(bodies), length)

    def _scan(self, site: Site, operands: tuple[Place, ...]) -> Planned:
        params = site.wide.params
        start = params["num_consts"]
        end, count = start + params["num_carry"], params["num_carry"]
        known = list(map(_known, operands))

        def once(carry: Sequence[Known]) -> PlannedBody:
            return self.body(site.bodies[0], [*known[:start], *carry, *known[end:]])

        planned, carry = _settled(once, known[start:end])
        assert site.length is not None
        length = self._layouts[site.length]
        stacked = [_known(place) for place in planned.results[count:]]
        if length.varies:
            # What the steps behind the lane's last one leave is never looked at.
            stacked = [(ANY, tame) for _, tame in stacked]
        length = length if length.varies else None
        return self._control(site, operands, [planned], [*carry, *stacked], length)

    def _while(self, site: Site, operands: tuple[Place, ...]) -> Planned:
        first = site.wide.params["cond_nconsts"]
        second = first + site.wide.params["body_nconsts"]
        known = list(map(_known, operands))

        def once(carry: Sequence[Known]) -> PlannedBody:
            return self.body(site.bodies[1], [*known[first:second], *carry])

        planned, carry = _settled(once, known[second:])
        condition = self.body(site.bodies[0], [*known[:first], *carry])
        return self._control(site, operands, [condition, planned], carry)

    def _cond(self, site: Site, operands: tuple[Place, ...]) -> Planned:
        known = list(map(_known, operands[1:]))
        branches = [self.body(branch, known) for branch in site.bodies]
        results = [
            _joined(list(map(_known, column)))
            for column in zip(*[branch.results for branch in branches])
        ]
        return self._control(site, operands, branches, results)


def _known(place: Place) -> Known:
    return place.contents, place.tame


def _joined(several: Sequence[Known]) -> Known:
    contents: Contents = None
    for other, _ in several:
        contents = join(contents, other)
    return contents, all(tame for _, tame in several)


def _settled(
    once: Callable[[Sequence[Known]], PlannedBody], carry: Sequence[Known]
) -> tuple[PlannedBody, list[Known]]:
    """Repeats a body until nothing more can be in its carry.

    Contents only rise and tameness is only lost, so that it comes to an end.
    """
    carry = list(carry)
    while True:
        planned = once(carry)
        after = map(_known, planned.results[: len(carry)])
        joined = [_joined(pair) for pair in zip(carry, after)]
        if joined == carry:
            return planned, carry
        carry = joined
