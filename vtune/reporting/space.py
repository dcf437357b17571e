"""A hyperparameter's domain in words."""

import dataclasses
from collections.abc import Sequence

from vtune.parameters import Fixed, FloatRange, IntRange, Parameter
from vtune.reporting import text
from vtune.trial import Value


@dataclasses.dataclass(frozen=True)
class SpaceRow:
    """One hyperparameter in a summary.

    Args:
        name: its name.
        kind: `"Int"`, `"Float"`, `"Choice"`, `"Boolean"` or `"Fixed"`.
        values: the values that it can take, as text.
        sampling: how they are drawn; empty where each is as likely as the others.
        default: its value outside a search.
    """

    name: str
    kind: str
    values: str
    sampling: str
    default: Value


def space_row(parameter: Parameter) -> SpaceRow:
    """What a summary says of one hyperparameter."""
    name, default = parameter.name, parameter.default
    if isinstance(parameter, IntRange | FloatRange):
        kind = "Int" if isinstance(parameter, IntRange) else "Float"
        low, high = text.value(parameter.min_value), text.value(parameter.max_value)
        values = f"{low} to {high}"
        if parameter.step is not None:
            word = "step" if parameter.sampling == "linear" else "factor"
            values += f", {word} {text.value(parameter.step)}"
        return SpaceRow(name, kind, values, parameter.sampling, default)
    if isinstance(parameter, Fixed):
        return SpaceRow(name, "Fixed", text.value(parameter.value), "", default)
    values = parameter.grid()
    boolean = all(isinstance(value, bool) for value in values)
    kind = "Boolean" if boolean else "Choice"
    return SpaceRow(name, kind, _listed(values), "", default)


def _listed(values: Sequence[Value]) -> str:
    """The values, those in the middle left out where there are many."""
    shown = [text.value(value, 20) for value in values]
    if len(shown) > 8:
        shown = [*shown[:5], "...", shown[-1]]
    return ", ".join(shown) + (f" ({len(values)} values)" if len(values) > 8 else "")
