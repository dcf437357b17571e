"""What is refused, and that to fuse it all the same would have been wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.fusion.narrow_in_wide import check_function, widening_of
from vtune.fusion import axes, padding
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules import random
from vtune.fusion.rules.contents import ANY
from vtune.fusion.rules.rule import Plan, Rule, unmasked
from vtune.fusion.rules.table import RULES


WIDTHS = (3, 5, 8)


def arguments():
    generator = np.random.default_rng(0)
    return [(generator.normal(size=(9, n)).astype(np.float32),) for n in WIDTHS]


def square(x):
    """A symmetric matrix of the width, far from singular."""
    return x.T @ x


def summed(x):
    return lax.reduce(x, np.float32(0), lambda a, b: a + b + 0.5, (1,))


def outside(x):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(
        lambda x: np.float32(np.size(x)), shape, x, vmap_method="sequential"
    )


REFUSED = {
    "QR decomposition": (lambda x: jnp.linalg.qr(x.T)[1], "qr"),
    "singular value decomposition": (
        lambda x: jnp.linalg.svd(x.T @ x + 1, compute_uv=False),
        "svd",
    ),
    "eigenvalue decomposition": (lambda x: jnp.linalg.eigvalsh(square(x)), "eigh"),
    "Fourier transform": (lambda x: jnp.abs(jnp.fft.fft(x, axis=1)), "fft"),
    "function of the user's own": (summed, "reduce"),
    "outside JAX": (outside, "pure_callback"),
}


def permissive(relate=lambda site, nodes: None):
    """A rule that asks nothing and masks nothing."""

    def plan(step):
        count = len(step.results)
        return Plan(unmasked(step), (ANY,) * count, (False,) * count)

    return Rule(relate, plan)


@pytest.mark.parametrize("name", REFUSED)
def test_what_padding_would_change_is_refused(name, monkeypatch):
    function, primitive = REFUSED[name]
    with pytest.raises(Refusal, match=name) as refusal:
        widening_of(function, *arguments())
    assert refusal.value.primitive == primitive
    assert "test_refusals.py" in str(refusal.value)
    rules = {**RULES, primitive: permissive()}
    monkeypatch.setattr(axes, "RULES", rules)
    monkeypatch.setattr(padding, "RULES", rules)
    with pytest.raises((AssertionError, ValueError)):
        check_function(function, *arguments())


def drawn(implementation):
    def function(x):
        key = jax.random.key(3, impl=implementation)
        return x * jax.random.uniform(key, x.shape)

    return function


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_draws_of_other_generators_are_refused(implementation, monkeypatch):
    function = drawn(implementation)
    with pytest.raises(Refusal, match=f"the generator '{implementation}'"):
        widening_of(function, *arguments())
    rules = {**RULES, "random_bits": permissive(random.RULES["random_bits"].relate)}
    monkeypatch.setattr(axes, "RULES", rules)
    monkeypatch.setattr(padding, "RULES", rules)
    with pytest.raises(AssertionError):
        check_function(function, *arguments())


def test_draws_that_depend_on_the_shape_are_refused(monkeypatch):
    function = drawn("threefry2x32")
    with jax.threefry_partitionable(False):
        with pytest.raises(Refusal, match="jax_threefry_partitionable"):
            widening_of(function, *arguments())
        monkeypatch.setattr(random, "require_counters", lambda *ignored: None)
        with pytest.raises((AssertionError, Refusal)):
            check_function(function, *arguments())
