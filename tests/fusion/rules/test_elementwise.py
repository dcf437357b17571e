import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtune.fusion.rules.contents import ANY, FINITE, ZERO, Known
from vtune.fusion.rules.elementwise import result_contents
from vtune.fusion.trace import trace_function


def contents(function, *operands, dtype=jnp.float32):
    array = jax.ShapeDtypeStruct((3,), dtype)
    flat = trace_function(function, *[array] * len(operands))
    (equation,) = flat.body.equations
    assert len(equation.inputs) == len(operands)
    return result_contents(equation, operands)


def known(value, dtype=np.float32):
    return Known(np.asarray(value, dtype))


@pytest.mark.parametrize(
    "function, operands, expected",
    [
        (jax.lax.exp, [known(0)], known(1)),
        (jax.lax.exp, [FINITE], ANY),
        (jax.lax.log, [known(0)], ANY),
        (jax.lax.tanh, [FINITE], FINITE),
        (jax.lax.tanh, [ANY], ANY),
        (jax.lax.tanh, [ZERO], ZERO),
        (jax.lax.cosh, [FINITE], ANY),
        (jax.lax.square, [FINITE], ANY),
        (jax.lax.add, [FINITE, FINITE], ANY),
        (jax.lax.add, [known(1), known(2)], known(3)),
        (jax.lax.mul, [known(0), FINITE], ZERO),
        (jax.lax.mul, [known(0), ANY], ANY),
        (jax.lax.mul, [known(0), known(-2)], known(-0.0)),
        (jax.lax.mul, [FINITE, FINITE], ANY),
        (jax.lax.div, [known(0), known(2)], known(0)),
        (jax.lax.div, [known(0), ZERO], ANY),
        (jax.lax.atan2, [ZERO, known(-1)], FINITE),
        (jax.lax.lt, [ANY, ANY], FINITE),
        (jax.lax.max, [FINITE, known(0)], FINITE),
    ],
)
def test_only_what_is_proved_is_known_or_finite(function, operands, expected):
    assert contents(function, *operands) == expected


@pytest.mark.parametrize(
    "source, target, expected",
    [
        (jnp.float32, jnp.float16, ANY),
        (jnp.float32, jnp.bfloat16, ANY),
        (jnp.float16, jnp.float32, FINITE),
        (jnp.int32, jnp.float16, ANY),
        (jnp.int32, jnp.float32, FINITE),
        (jnp.float32, jnp.int32, FINITE),
    ],
)
def test_a_narrowing_conversion_may_overflow(source, target, expected):
    found = contents(
        lambda x: jax.lax.convert_element_type(x, target), FINITE, dtype=source
    )
    assert found is expected


def test_a_choice_is_one_of_its_cases():
    flat = trace_function(
        jax.lax.select_n, jax.ShapeDtypeStruct((3,), bool), *[jnp.ones(3)] * 2
    )
    (equation,) = flat.body.equations
    yes = known(True, bool)
    assert result_contents(equation, [yes, ANY, FINITE]) is FINITE
    assert result_contents(equation, [ANY, known(0), known(0)]) == known(0)
    assert result_contents(equation, [FINITE, known(0), known(-0.0)]) is ZERO
    assert result_contents(equation, [FINITE, known(0), ANY]) is ANY


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(
    "name", "neg sin cos tanh logistic abs sign floor ceil round erf erfc atan".split()
)
def test_what_is_called_finite_is_finite_at_the_ends_of_a_dtype(name, dtype):
    function = getattr(jax.lax, name)
    assert contents(function, FINITE, dtype=dtype) is FINITE
    limits = jnp.finfo(dtype)
    ends = jnp.asarray([limits.max, limits.min, limits.tiny, -limits.tiny, 0], dtype)
    assert np.isfinite(np.asarray(function(ends), np.float32)).all()
