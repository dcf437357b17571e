"""The flat form: what is inlined, what is left out, where constants lie."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtune.fusion.composition import compose
from vtune.fusion.evaluate import evaluate
from vtune.fusion.flat import Constant, FlatFunction, walk
from vtune.fusion.trace import trace_function


X = jnp.linspace(-1.0, 2.0, 6)
CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "remat",
    "remat2",
    "checkpoint",
}


def names(flat: FlatFunction) -> list[str]:
    return [equation.primitive.name for equation in walk(flat.body)]


def run(flat: FlatFunction, *inputs: Any) -> list[Any]:
    return jax.jit(functools.partial(evaluate, flat, (), ()))(*inputs)


@jax.custom_vjp
def cubed(x):
    return jax.jit(lambda x: x * x * x)(x)


cubed.defvjp(lambda x: (cubed(x), x), lambda x, g: (g * 3.5 * x * x,))


@jax.jit
def nested(x):
    block = jax.checkpoint(lambda x: cubed(jax.nn.relu(x)) + jax.jit(jnp.sin)(x))
    return block(jax.nn.silu(x)) * jnp.where(x > 0, x, 0.5)


def scanned(x):
    def step(carry, t):
        return jax.lax.cond(t > 1, nested, jax.jit(jnp.cos), carry), nested(carry)

    return jax.lax.scan(step, x, jnp.arange(3.0))


@pytest.mark.parametrize(
    "function",
    [
        nested,
        jax.grad(lambda x: nested(x).sum()),
        scanned,
        jax.value_and_grad(lambda x: scanned(x)[0].sum()),
        jax.jit(jax.jit(scanned)),
    ],
)
def test_calls_are_inlined_at_every_depth_and_nothing_changes(function):
    flat = trace_function(function, X)
    assert not CALLS & set(names(flat))
    for a, b in zip(run(flat, X), jax.tree.leaves(jax.jit(function)(X)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_one_function_called_twice_has_variables_of_its_own_each_time():
    @jax.jit
    def shifted(x, y):
        return jnp.sin(x) + y * 0.5

    def function(x):
        first = shifted(x, x * 2)
        return shifted(first, x), shifted(x, first), first

    flat = trace_function(function, X)
    outputs = [v for equation in walk(flat.body) for v in equation.outputs]
    assert len(outputs) == len(set(outputs))
    for a, b in zip(run(flat, X), function(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_control_flow_becomes_equations_with_bodies():
    flat = trace_function(scanned, X)
    (scan,) = [e for e in flat.body.equations if e.bodies]
    assert scan.primitive.name == "scan" and len(scan.bodies) == 1
    assert "jaxpr" not in scan.params and scan.params["length"] == 3
    (cond,) = [e for e in scan.bodies[0].equations if e.bodies]
    assert cond.primitive.name == "cond" and len(cond.bodies) == 2
    (loop,) = trace_function(
        lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x), X
    ).body.equations
    assert loop.primitive.name == "while" and len(loop.bodies) == 2


def test_bodies_see_their_own_variables_only():
    def check(body):
        known = set(body.inputs)
        for equation in body.equations:
            assert all(isinstance(a, Constant) or a in known for a in equation.inputs)
            known.update(equation.outputs)
            for inner in equation.bodies:
                check(inner)
        assert all(isinstance(a, Constant) or a in known for a in body.outputs)

    check(trace_function(jax.grad(lambda x: scanned(x)[0].sum()), X).body)


def test_other_primitives_keep_their_jaxprs():
    flat = trace_function(lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a * b, (0,)), X)
    (equation,) = flat.body.equations
    assert equation.primitive.name == "reduce" and not equation.bodies
    assert "jaxpr" in equation.params


def test_each_occurrence_of_a_literal_has_its_own_slot_and_an_array_has_one():
    table = jnp.arange(6.0)

    def function(x):
        x = x * 0.5 + 0.5 + table
        return jax.lax.scan(lambda c, _: (c * 0.5, c * table), x, None, length=2), 0.5

    flat = trace_function(function, X)
    scalars = [c for c in flat.constants if np.shape(c) == () and c == 0.5]
    tables = [c for c in flat.constants if np.shape(c) == (6,)]
    assert len(scalars) == 4 and len(tables) == 1
    read = [
        a.slot for e in walk(flat.body) for a in e.inputs if isinstance(a, Constant)
    ]
    read += [a.slot for a in flat.body.outputs if isinstance(a, Constant)]
    assert set(read) == set(range(len(flat.constants)))


def test_constants_have_the_dtype_that_the_equation_reads():
    def function(x, b, i):
        return x * 0.1, b * 0.1, i + 16777217, i.astype(jnp.uint8) + 3, x > 0.5, i * 0.1

    b, i = X.astype(jnp.bfloat16), jnp.arange(6)
    flat = trace_function(function, X, b, i)
    for equation in flat.body.equations:
        for atom in equation.inputs:
            if isinstance(atom, Constant):
                assert flat.constants[atom.slot].dtype == atom.aval.dtype
                assert not atom.aval.weak_type
    assert any(c.dtype == jnp.int32 and c == 16777217 for c in flat.constants)
    assert any(c.dtype == jnp.bfloat16 for c in flat.constants)


def test_what_nobody_reads_is_left_out_with_its_constants():
    @jax.jit
    def pair(x):
        return x + 2.0, jnp.exp(x * 7.0)

    def function(x):
        jnp.log(x * 3.0)
        jax.lax.scan(lambda c, t: (c * 5.0, t), x, jnp.arange(2.0))
        return jax.lax.cond(x.sum() > 0, lambda x: pair(x)[0], lambda x: x, x)

    flat = trace_function(function, X)
    assert not {"log", "scan", "exp", "iota"} & set(names(flat))
    assert not {3.0, 5.0, 7.0} & {float(c) for c in flat.constants}


def test_side_effects_are_kept():
    def function(x):
        jax.debug.callback(lambda x: None, x * 3.0)
        return x

    assert "debug_callback" in names(trace_function(function, X))


@pytest.mark.parametrize("prevent", [True, False])
def test_rematerialization_keeps_its_barrier(prevent):
    """Without it XLA would merge the recomputation with the forward pass."""

    def block(x):
        return jnp.sin(jnp.cos(x) * 2.0)

    def function(x):
        return jax.checkpoint(block, prevent_cse=prevent)(x).sum()

    assert "optimization_barrier" not in names(trace_function(function, X))
    flat = trace_function(jax.grad(function), X)
    assert ("optimization_barrier" in names(flat)) == prevent
    assert names(flat).count("cos") > 1
    lowered = jax.jit(functools.partial(evaluate, flat, (), ())).lower(X).as_text()
    assert ("optimization_barrier" in lowered) == prevent


def test_rematerialization_of_a_block_with_a_random_key():
    def block(x, key):
        return jnp.sin(x) * jax.random.bernoulli(key, 0.5, x.shape)

    def function(x, key):
        return jax.checkpoint(block)(jax.checkpoint(block)(x, key), key).sum()

    flat = trace_function(jax.grad(function), X, jax.random.key(0))
    lanes = jax.vmap(functools.partial(evaluate, flat, (), ()))
    keys = jax.random.split(jax.random.key(1), 3)
    (together,) = jax.jit(lanes)(jnp.stack([X, X + 1, X + 2]), keys)
    for i in range(3):
        alone = jax.jit(jax.grad(function))(X + i, keys[i])
        np.testing.assert_allclose(together[i], alone, rtol=1e-6, atol=1e-7)


def test_weak_types_leave_no_trace():
    def weak(x):
        count = jax.lax.fori_loop(0, 3, lambda i, c: c + 1.0, 0.0)
        return x * count, count, 1

    flat = trace_function(weak, X)
    avals = [v.aval for e in walk(flat.body) for v in e.outputs]
    assert not any(aval.weak_type for aval in [*avals, *flat.out_avals])
    assert not any(result.weak_type for result in run(flat, X))
    conversions = [
        e for e in walk(flat.body) if e.primitive.name == "convert_element_type"
    ]
    assert all(e.inputs[0].aval.dtype != e.params["new_dtype"] for e in conversions)


def test_composition():
    table = jnp.arange(6.0)
    first = trace_function(lambda x: {"a": x * 2.0, "b": table, "c": 0.25}, X)
    state = {"a": X, "b": table, "c": jnp.float32(0)}

    def second(state):
        def step(carry, _):
            return carry * state["c"] + table * 3.0, None

        return jax.lax.scan(step, state["a"], None, length=2)[0], state["b"]

    both = compose(first, trace_function(second, state))
    expected = jax.jit(lambda x: second({"a": x * 2.0, "b": table, "c": 0.25}))(X)
    for a, b in zip(run(both, X), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    (slot,) = [i for i, c in enumerate(both.constants) if np.all(c == 0.25)]
    changed = evaluate(both, (slot,), [jnp.float32(-1.0)], X)
    expected = second({"a": X * 2.0, "b": table, "c": -1.0})
    np.testing.assert_allclose(changed[0], expected[0], rtol=1e-6)


def test_composition_of_a_function_with_itself():
    flat = trace_function(lambda x: jnp.sin(x) * 0.5 + x, X)
    twice = compose(flat, flat)
    assert len(twice.constants) == 2 * len(flat.constants)
    np.testing.assert_allclose(
        run(twice, X)[0], run(flat, run(flat, X)[0])[0], rtol=1e-6
    )


def test_composition_refuses_what_does_not_fit():
    first = trace_function(lambda x: x.astype(jnp.bfloat16), X)
    with pytest.raises(ValueError, match=r"compose.*bfloat16"):
        compose(first, trace_function(jnp.sin, X))


def test_an_equation_names_the_line_of_the_user():
    flat = trace_function(nested, X)
    lines = {equation.line for equation in walk(flat.body)}
    assert all(line and "test_flat.py:" in line for line in lines)
    assert any(str(line).endswith("(nested)") for line in lines)
