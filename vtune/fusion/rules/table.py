"""The one table of rules, by the name of the primitive."""

from collections.abc import Mapping

from vtune.fusion.rules import (
    contraction,
    convolution,
    elementwise,
    gather,
    order,
    random,
    reduction,
    reshaping,
    windows,
)
from vtune.fusion.rules.rule import Rule


RULES: Mapping[str, Rule] = {
    **elementwise.RULES,
    **contraction.RULES,
    **reduction.RULES,
    **reshaping.RULES,
    **convolution.RULES,
    **windows.RULES,
    **gather.RULES,
    **order.RULES,
    **random.RULES,
}
