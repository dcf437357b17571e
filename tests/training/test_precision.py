"""How products are rounded on each platform, and what the check makes of it."""

import jax
import numpy as np
import pytest
from jax.lax import DotAlgorithmPreset, Precision

from vtune.training.closeness import noisy
from vtune.training.precision import product_rounding


SINGLE, TENSOR_FLOAT, BFLOAT = 2.0**-23, 2.0**-10, 2.0**-7
TWO_BFLOATS = 2.0**-15

LEVELS = [
    (None, TENSOR_FLOAT, BFLOAT),
    ("default", TENSOR_FLOAT, BFLOAT),
    ("bfloat16", TENSOR_FLOAT, BFLOAT),
    ("high", TENSOR_FLOAT, TWO_BFLOATS),
    ("tensorfloat32", TENSOR_FLOAT, TWO_BFLOATS),
    ("highest", SINGLE, SINGLE),
    ("float32", SINGLE, SINGLE),
    ("BF16_BF16_F32", BFLOAT, BFLOAT),
    ("BF16_BF16_F32_X3", TWO_BFLOATS, TWO_BFLOATS),
    ("BF16_BF16_F32_X6", SINGLE, SINGLE),
    ("TF32_TF32_F32", TENSOR_FLOAT, TENSOR_FLOAT),
    ("F32_F32_F32", SINGLE, SINGLE),
]


@pytest.mark.parametrize(("setting", "gpu", "tpu"), LEVELS)
def test_products_are_rounded_as_jax_says(setting, gpu, tpu):
    assert product_rounding("cpu", setting) == SINGLE
    assert product_rounding("gpu", setting) == gpu
    assert product_rounding("tpu", setting) == tpu
    assert product_rounding("another", setting) == gpu


@pytest.mark.parametrize("setting", [name for name, _, _ in LEVELS if name])
def test_jax_knows_these_settings(setting):
    with jax.default_matmul_precision(setting):
        assert jax.config.jax_default_matmul_precision == setting
    level = setting in {"bfloat16", "tensorfloat32", "float32"} or setting.islower()
    assert Precision(setting) if level else DotAlgorithmPreset[setting]


@pytest.mark.parametrize("setting", ["default", "high", "highest", "BF16_BF16_F32"])
def test_a_cpu_multiplies_in_single_precision_whatever_is_set(setting):
    random = np.random.default_rng(0)
    a, b = (random.random((2, 64, 64)) + 1).astype(np.float32)
    with jax.default_matmul_precision(setting):
        found = jax.device_get(jax.numpy.asarray(a) @ b)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert np.abs(found / exact - 1).max() < 8 * product_rounding("cpu", setting)


@pytest.mark.parametrize("rounding", [SINGLE, TENSOR_FLOAT, BFLOAT])
def test_noise_is_one_rounding_of_each_entry(rounding):
    array = np.linspace(-3, 3, 100, dtype=np.float32)
    changed = np.abs(noisy(array, 0, rounding) / array - 1)
    assert np.all(changed >= rounding / 2)
    assert np.all(changed <= rounding + SINGLE)
