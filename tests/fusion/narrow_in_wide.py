"""Runs functions inside an envelope, and each of them alone."""

import jax
import jax.numpy as jnp
import numpy as np

from vtune.fusion import internals
from vtune.fusion.evaluate_wide import evaluate_wide
from vtune.fusion.placement import embed, extract
from vtune.fusion.rules.contents import ANY, ZERO
from vtune.fusion.trace import Trace, trace_function
from vtune.fusion.widen import widen


def trace_of(function, arguments):
    """A trace of which the arguments are the state, and one step computes results."""
    leaves = jax.tree.leaves(arguments)
    tree = jax.tree.structure(arguments)

    def step(*leaves):
        return leaves, function(*jax.tree.unflatten(tree, leaves))

    train = trace_function(step, *leaves)
    avals = tuple(
        jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves
    )
    init = trace_function(lambda: [_nothing(aval) for aval in avals])
    paths = tuple(f"[{number}]" for number in range(len(leaves)))
    return Trace(init, (train,), (), tree, avals, paths, (), (), ())


def _nothing(aval):
    if _is_key(aval):
        return jax.random.split(jax.random.key(0), aval.shape)
    return jnp.zeros(aval.shape, aval.dtype)


def _is_key(aval):
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)


def widening_of(function, *arguments, state=ZERO):
    """The widening of a function's traces for several tuples of arguments."""
    return _widened([trace_of(function, a) for a in arguments], state)


def check_function(
    function, *arguments, tolerance=2e-6, exact=False, bind=internals.bind
):
    """Compares a function inside its envelope with the function alone.

    Args:
        function: a function of pytrees of arrays.
        *arguments: for each member a tuple of arguments; the widest last.
        tolerance: how far results may differ, relative to their largest entry.
        exact: whether they have to be equal.
        bind: how equations are computed inside the envelope.

    Returns:
        The widening for arguments that are zero in their padding.
    """
    traces = [trace_of(function, a) for a in arguments]
    alone = [
        jax.device_get(jax.tree.leaves(_compiled(function, *a)(*a))) for a in arguments
    ]
    for state, poisons in ((ZERO, (0.0, -0.0)), (ANY, (np.nan, 1e30, -np.inf, 0.0))):
        compared = _Compared(arguments, traces, _widened(traces, state), bind)
        for poison in poisons:
            compared.with_padding(poison, alone, tolerance, exact)
    return _widened(traces, ZERO)


def _compiled(function, *arguments):
    """Compiled fast, to be run a few times."""
    lowered = jax.jit(function).lower(*arguments)
    return lowered.compile({"xla_backend_optimization_level": "1"})


def _widened(traces, state):
    return widen(traces, traces[-1], state)


class _Compared:
    """A widening, compiled once for all that its padding may hold."""

    def __init__(self, arguments, traces, widening, bind):
        self.arguments, self.traces, self.widening = arguments, traces, widening
        (self.wide,) = widening.functions.train
        values = [widening.values(trace).train[0] for trace in traces]
        self.values = jax.tree.map(lambda *a: jnp.stack(a), *values)
        self.sizes = np.stack([widening.lane_sizes(trace) for trace in traces])

        def lane(lifted, sizes, leaves):
            return evaluate_wide(self.wide, lifted, sizes, *leaves, bind=bind)

        self.lane = jax.vmap(lane)
        self.run = None

    def with_padding(self, poison, alone, tolerance, exact):
        members = list(map(self.widening.member, self.traces))
        states = [
            _poisoned(arguments, self.widening, member, poison)
            for arguments, member in zip(self.arguments, members)
        ]
        inputs = [jnp.stack(column) for column in zip(*states)]
        arguments = (self.values, self.sizes, inputs)
        if self.run is None:
            self.run = _compiled(self.lane, *arguments)
        results = self.run(*arguments)[len(inputs) :]
        places = self.wide.body.results[len(inputs) :]
        for lane, member in enumerate(members):
            for place, result, expected in zip(places, results, alone[lane]):
                got = result[lane]
                if _is_key(got):
                    got = np.asarray(jax.random.key_data(got))
                    expected = jax.random.key_data(expected)
                    got = got[tuple(slice(n) for n in expected.shape)]
                else:
                    got = extract(np.asarray(got), place.layouts, member)
                _assert_close(got, np.asarray(expected), tolerance, exact)


def _poisoned(arguments, widening, member, poison):
    leaves = []
    for leaf, layouts in zip(jax.tree.leaves(arguments), widening.state):
        if _is_key(leaf):
            leaves.append(leaf)
            continue
        leaf = np.asarray(leaf)
        fill = poison
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            fill = 0 if poison == 0 else (True if leaf.dtype == bool else 7)
        leaves.append(jnp.asarray(embed(leaf, layouts, member, fill)))
    return leaves


def _assert_close(got, expected, tolerance, exact):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    if exact or not jnp.issubdtype(got.dtype, jnp.inexact):
        np.testing.assert_array_equal(got, expected)
        return
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    finite = expected[np.isfinite(expected)]
    scale = np.abs(finite).max(initial=1e-30)
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=tolerance * scale, equal_nan=True
    )
