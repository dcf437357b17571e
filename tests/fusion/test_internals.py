"""What is relied upon of JAX beyond its public API."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from vtune.fusion import internals
from vtune.fusion.trace import trace_function


X = jnp.ones(4)


def equations(function, *args):
    return jax.make_jaxpr(function)(*args).jaxpr.eqns


def first_caller(x):
    return jax.nn.gelu(x)


def second_caller(x):
    return jax.nn.gelu(x)


def test_the_line_of_a_remembered_trace_is_that_of_this_call():
    """JAX keeps the stack of whoever called a jitted function first."""
    for caller in (first_caller, second_caller):
        flat = trace_function(caller, X)
        for equation in flat.body.equations:
            assert equation.line is not None
            assert equation.line.endswith(f"({caller.__name__})")


@jax.jit
def jitted_by_the_user(x):
    y = x + 1
    return jnp.sin(y)


def test_the_line_inside_a_jitted_function_of_the_user_is_found():
    def caller(x):
        return jitted_by_the_user(x)

    for equation in trace_function(caller, X).body.equations:
        assert equation.line is not None
        assert equation.line.endswith("(jitted_by_the_user)")


def test_an_unknown_line_is_none():
    source = types.SimpleNamespace(traceback=None)
    assert internals.user_line([source]) is None
    assert internals.user_line([]) is None


def test_both_forms_of_the_counts_of_a_scan():
    common = {"jaxpr": "body", "length": 3, "reverse": False, "unroll": 1}
    groups = types.SimpleNamespace(unpack=lambda: ([None], [None, None], []))
    counted = {**common, "num_consts": 1, "num_carry": 2}
    packed = {**common, "ft_in": groups, "ft_out": None}
    assert internals.control_flow("scan", counted) == internals.control_flow(
        "scan", packed
    )


def test_a_choice_by_platform_stays_as_it_is():
    def function(x):
        return jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)

    flat = trace_function(function, X)
    (cond,) = [e for e in flat.body.equations if e.primitive.name == "cond"]
    assert not cond.bodies and "branches" in cond.params


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"differentiated": True, "prevent_cse": True}, [True, True]),
        ({"differentiated": True, "prevent_cse": (False, True)}, [False, True]),
        ({"differentiated": True, "prevent_cse": False}, [False, False]),
        ({"differentiated": False, "prevent_cse": True}, [False, False]),
    ],
)
def test_which_arguments_of_a_checkpoint_are_barred(params, expected):
    assert internals.barred_arguments("remat2", params, 2) == expected
    assert internals.barred_arguments("jit", params, 2) == [False, False]


def test_ordered_effects_are_known():
    def callback(ordered):
        return lambda x: io_callback(print, None, x, ordered=ordered)

    for ordered in (True, False):
        (equation,) = equations(callback(ordered), X)
        assert any(map(internals.is_ordered, equation.effects)) == ordered


@pytest.mark.parametrize("name", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_the_generator_of_a_key_is_known(name):
    keys = jax.random.split(jax.random.key(0, impl=name), 2)
    assert internals.key_implementation(jax.typeof(keys)) == name
    assert internals.key_implementation(jax.typeof(X)) is None


def test_equations_inside_an_opaque_primitive_are_seen():
    def function(x):
        return jax.scipy.sparse.linalg.cg(lambda v: v * 2.0, x)[0]

    (solve,) = [e for e in equations(function, X) if "solve" in e.primitive.name]
    names = {e.primitive.name for e in internals.inner_equations(solve.params)}
    assert {"while", "dot_general", "mul"} <= names


def test_constants_get_the_dtype_of_their_abstract_value():
    aval = jax.typeof(jnp.uint32(0))
    value = internals.concrete(4294967295, aval)
    assert value.dtype == np.uint32 and value == 4294967295
    key = jax.random.key(0)
    assert internals.concrete(key, jax.typeof(key)) is key


def test_an_equation_is_evaluated_under_the_settings_it_was_traced_under():
    key = jax.random.key(3)

    def draw(key):
        with jax.threefry_partitionable(False):
            return jax.random.bits(key, (5,))

    (equation,) = [
        e
        for e in trace_function(draw, key).body.equations
        if e.primitive.name == "random_bits"
    ]
    (bits,) = internals.bind(equation, [key])
    np.testing.assert_array_equal(bits, draw(key))
    assert not np.array_equal(bits, jax.random.bits(key, (5,)))
