"""What is refused, and that to fuse it all the same would have been wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.fusion.narrow_in_wide import check_function, widening_of
from vtune.fusion.refusal import Refusal
from vtune.fusion.rules import random
from vtune.fusion.rules.contents import ANY
from vtune.fusion.rules.rule import Plan, Rule, relate_alike, unmasked
from vtune.fusion.rules.table import RULES


WIDTHS = (3, 5, 8)


def features(width):
    return np.random.default_rng(width).normal(size=(9, width)).astype(np.float32)


ARGUMENTS = [(features(width),) for width in WIDTHS]


def matrix(x):
    """A positive matrix that has entries in its padding, too."""
    return jnp.cos(x).T @ jnp.cos(x) + jnp.eye(x.shape[1])


# Each result is one number a trial, so that no layout of it can be wrong.


def triangle(x):
    return jnp.abs(jnp.linalg.qr(jnp.cos(x[:2]).T)[1]).sum()


def singular_values(x):
    return jnp.linalg.svd(jnp.cos(x), compute_uv=False).max()


def eigenvalues(x):
    return jnp.linalg.eigvalsh(matrix(x)).min()


def root(x):
    return jnp.trace(jnp.linalg.cholesky(x.T @ x))


def solution(x):
    return jax.scipy.linalg.solve_triangular(matrix(x), x[0] * 0 + 1).max()


def frequencies(x):
    return jnp.abs(jnp.fft.fft(jnp.cos(x), axis=1)).max()


def folded(x):
    """A reduction by a function that JAX does not know."""
    return lax.reduce(jnp.cos(x), np.float32(0), lambda a, b: a + b + a * b, (1,)).max()


def outside(x):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(
        lambda x: np.float32(np.size(x)), shape, x, vmap_method="sequential"
    )


def gamma(x):
    return jax.random.gamma(jax.random.key(0), 1.0, x.shape).sum()


def permissive(relate):
    """A rule that masks nothing, and computes what the envelope computes."""

    def plan(step):
        count = len(step.results)
        return Plan(unmasked(step), (ANY,) * count, (False,) * count)

    return Rule(relate, plan)


def nothing(site, nodes):
    """No axis is any other: all have their entries at the front."""


def all_alike(site, nodes):
    """All arrays have the axes of the first, as far as they have so many."""
    arrays = (*site.inputs, *site.outputs)
    for other in arrays[1:]:
        for a, b in zip(arrays[0].axes, other.axes):
            if nodes.sizes(a) == nodes.sizes(b):
                nodes.same(a, b)


# The function, its primitive, what its user reads, and how it would be fused.
REFUSED = {
    "QR": (triangle, "qr", "QR decomposition of a 8 x 2 array", nothing),
    "SVD": (singular_values, "svd", "singular value decomposition", nothing),
    "eigenvalues": (eigenvalues, "eigh", "eigenvalue decomposition", nothing),
    "Cholesky": (root, "cholesky", "Cholesky decomposition", all_alike),
    "solution": (
        solution,
        "triangular_solve",
        "solution of a linear system",
        all_alike,
    ),
    "Fourier": (frequencies, "fft", "Fourier transform", relate_alike),
    "own reduction": (folded, "reduce", "function of the user's own", nothing),
    "callback": (outside, "pure_callback", "value of a function outside", nothing),
    "gamma": (gamma, "random_gamma", "gamma draw", nothing),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_padding_would_change_is_refused(name, monkeypatch):
    function, primitive, message, relate = REFUSED[name]
    with pytest.raises(Refusal, match=message) as refusal:
        widening_of(function, *ARGUMENTS)
    assert refusal.value.primitive == primitive
    assert "test_refusals.py" in refusal.value.line
    assert f"({function.__name__})" in refusal.value.line
    monkeypatch.setitem(RULES, primitive, permissive(relate))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_function(function, *ARGUMENTS, tolerance=1e-3)


def drawn(implementation):
    def function(x):
        # A key of its own in each trial.
        seed = jnp.argmax(x[:, 0])
        key = jax.random.key(seed, impl=implementation)
        return x * jax.random.uniform(key, x.shape)

    return function


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_draws_of_other_generators_are_refused(implementation, monkeypatch):
    function = drawn(implementation)
    with pytest.raises(Refusal, match=f"the generator '{implementation}'") as refusal:
        widening_of(function, *ARGUMENTS)
    assert refusal.value.primitive == "random_bits"
    assert "test_refusals.py" in refusal.value.line
    forced = permissive(random.RULES["random_bits"].relate)
    monkeypatch.setitem(RULES, "random_bits", forced)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_function(function, *ARGUMENTS)


def test_draws_that_depend_on_the_shape_are_refused(monkeypatch):
    function = drawn("threefry2x32")
    check_function(function, *ARGUMENTS)
    with jax.threefry_partitionable(False):
        with pytest.raises(Refusal, match="jax_threefry_partitionable") as refusal:
            widening_of(function, *ARGUMENTS)
        assert refusal.value.primitive == "random_bits"
        assert "test_refusals.py" in refusal.value.line
        forced = permissive(random.RULES["random_bits"].relate)
        monkeypatch.setitem(RULES, "random_bits", forced)
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check_function(function, *ARGUMENTS)
