"""Why programs of different widths cannot be one."""

from vtune.fusion.flat import Equation


class Refusal(Exception):
    """Widths that cannot share a program, with the reason in a sentence for the user.

    Args:
        reason: what stands in the way.
        equation: where it does, if it is one equation; its primitive and the user's
            line become part of the message.
    """

    def __init__(self, reason: str, equation: Equation | None = None):
        self.reason = reason
        self.primitive = equation.primitive.name if equation else None
        self.line = equation.line if equation else None
        place = f"`{self.primitive}`: " if self.primitive else ""
        Exception.__init__(
            self, f"{place}{reason}" + (f" ({self.line})" if self.line else "")
        )
