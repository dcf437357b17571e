import jax.numpy as jnp

from vtune.fusion.refusal import Refusal
from vtune.fusion.trace import trace_function


def test_a_refusal_names_the_primitive_and_the_users_line():
    (equation,) = trace_function(lambda x: jnp.sin(x), jnp.ones(3)).body.equations
    refusal = Refusal("no rule", equation)
    assert refusal.primitive == "sin" and refusal.reason == "no rule"
    assert refusal.line and "test_refusal.py" in refusal.line
    assert str(refusal) == f"`sin`: no rule ({refusal.line})"


def test_a_refusal_without_an_equation_is_its_reason():
    assert str(Refusal("the envelope is narrower")) == "the envelope is narrower"
