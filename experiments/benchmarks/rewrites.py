"""In which form is a convolution fastest here, and pooling?

Every convolution and every pooling of some training steps, gradients included, is timed
by itself in each form that it can have, inside a loop, where it is in vtune: for one
lane, and for several side by side. The rule that vtune ships chooses among these forms
by platform and shapes; the last column tells what it chooses.

    python experiments/benchmarks/rewrites.py --networks CNN --lanes-by map
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vtune as vt
from experiments.benchmarks.networks import CNN, OneDimensional, Residual, Separable
from vtune.fusion import internals
from vtune.fusion.flat import Equation, walk
from vtune.fusion.rewrites.convolution import convolution
from vtune.fusion.rewrites.forms import Form, convolved, forms
from vtune.fusion.rewrites.rewrites import Rewrites
from vtune.fusion.trace import trace_trial


NETWORKS = {
    "CNN": (CNN(), (28, 28, 1)),
    "residual": (Residual(), (32, 32, 3)),
    "separable": (Separable(), (32, 32, 3)),
    "1-D": (OneDimensional(), (128, 4)),
}
AS_TRACED, REWRITTEN = "as traced", "rewritten"
POOLING = {
    "reduce_window_max",
    "reduce_window_sum",
    "select_and_scatter_add",
}


class Candidate(NamedTuple):
    """An equation in one of its forms."""

    form: str
    function: Callable[..., Any]


def equations(name: str, batch: int) -> Iterator[Equation]:
    """The convolutions and the pooling of a training step, each kind once."""
    module, shape = NETWORKS[name]
    model = vt.Model(module, optax.adam(1e-3), "sparse_categorical_crossentropy")
    samples = (
        jax.ShapeDtypeStruct((batch, *shape), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    seen = set()
    for equation in walk(trace_trial(model, key, [samples], []).train[0].body):
        if equation.primitive.name in POOLING | {"conv_general_dilated"}:
            shapes = tuple(atom.aval.shape for atom in equation.inputs)
            kind = (equation.primitive.name, shapes, str(equation.params))
            if kind not in seen:
                seen.add(kind)
                yield equation


def candidates(equation: Equation, rewrites: Rewrites) -> list[Candidate]:
    """The forms that an equation can have."""

    def as_traced(*operands: Any) -> Any:
        return internals.bind(equation, operands)[0]

    if equation.primitive.name in POOLING:
        rewritten = lambda *operands: rewrites.bind(equation, operands)[0]  # noqa: E731
        return [Candidate(AS_TRACED, as_traced), Candidate(REWRITTEN, rewritten)]
    shapes = [atom.aval.shape for atom in equation.inputs]
    found = convolution(equation.params, *shapes)

    def in_form(form: Form) -> Candidate:
        return Candidate(form, lambda *o: convolved(form, equation.params, *o))

    return [Candidate(AS_TRACED, as_traced), *map(in_form, forms(found))]


def chosen(equation: Equation, rewrites: Rewrites) -> str:
    """The form that the rule chooses."""
    if equation.primitive.name in POOLING:
        return REWRITTEN
    shapes = [atom.aval.shape for atom in equation.inputs]
    return rewrites.form(convolution(equation.params, *shapes)) or AS_TRACED


def compiled(candidate: Candidate, equation: Equation, flags: Any) -> Any:
    """The form in a loop of steps, each on other operands, for all lanes."""
    generator = np.random.default_rng(0)
    lanes = () if flags.lanes_by == "map" else (flags.lanes,)

    def numbers(aval: Any) -> jax.Array:
        shape = (2, *lanes, *aval.shape)
        return jnp.asarray(generator.normal(size=shape), aval.dtype)

    operands = [numbers(atom.aval) for atom in equation.inputs]
    function = candidate.function if not lanes else jax.vmap(candidate.function)

    def loop(operands: Sequence[jax.Array]) -> jax.Array:
        def step(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            return total + function(*[each[number % 2] for each in operands]), None

        shape = (*lanes, *equation.outputs[0].aval.shape)
        zero = jnp.zeros(shape, equation.outputs[0].aval.dtype)
        return jax.lax.scan(step, zero, jnp.arange(flags.steps))[0]

    program = jax.jit(loop).lower(operands).compile()
    jax.block_until_ready(program(operands))
    return lambda: jax.block_until_ready(program(operands))


def measure(equation: Equation, rewrites: Rewrites, flags: Any) -> dict[str, float]:
    """The milliseconds that each form takes for a lane; the best run counts."""
    programs = {
        candidate.form: compiled(candidate, equation, flags)
        for candidate in candidates(equation, rewrites)
        if candidate.form != AS_TRACED or not flags.skip_as_traced
    }
    seconds: dict[str, list[float]] = {form: [] for form in programs}
    for _ in range(flags.repeats):
        for form, program in programs.items():
            started = time.perf_counter()
            program()
            seconds[form].append(time.perf_counter() - started)
    count = flags.steps * (1 if flags.lanes_by == "map" else flags.lanes)
    return {form: min(times) / count * 1e3 for form, times in seconds.items()}


def described(equation: Equation) -> str:
    """An equation in a few words."""
    shapes = " ".join(str(list(atom.aval.shape)) for atom in equation.inputs)
    params: Mapping[str, Any] = equation.params
    if equation.primitive.name in POOLING:
        return f"{equation.primitive.name} {shapes}"
    found = convolution(params, *[atom.aval.shape for atom in equation.inputs])
    grouped = f" {found.groups} groups" if found.groups > 1 else ""
    strides = [slide.stride for slide in found.slides]
    return f"convolution {shapes} strides {strides}{grouped}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--lanes-by", choices=("vmap", "map"), default="map")
    parser.add_argument("--lanes", type=int, default=4, help="side by side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-as-traced", action="store_true", help="it takes long")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to try it")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.networks, flags.batch, flags.steps, flags.repeats = ["1-D"], 4, 2, 1

    rewrites = Rewrites(jax.default_backend(), flags.lanes_by)
    print(
        f"milliseconds a step and lane, lanes by {flags.lanes_by}, batch {flags.batch},"
        f" on {jax.devices()[0].device_kind}; [the rule's]"
    )
    rows = []
    for name in flags.networks:
        for equation in equations(name, flags.batch):
            times, rule = measure(equation, rewrites, flags), chosen(equation, rewrites)
            row = {"network": name, "equation": described(equation), "rule": rule}
            rows.append({**row, "milliseconds": times})
            cells = [
                f"[{form} {time:.3f}]" if form == rule else f"{form} {time:.3f}"
                for form, time in sorted(times.items(), key=lambda item: item[1])
            ]
            print(f"{name}: {row['equation']}\n    {'  '.join(cells)}", flush=True)
    print(json.dumps({**vars(flags), "platform": rewrites.platform, "rows": rows}))


if __name__ == "__main__":
    main()
