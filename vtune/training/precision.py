"""How exact are products of matrices of single precision here?"""

# The bits of a factor after its leading one: all of them, or those that are left of it
# in TensorFloat-32 and in bfloat16, also where it is the sum of two or three of these.
_SINGLE, _TENSOR_FLOAT, _BFLOAT = 23, 10, 7
_TWO_BFLOATS = 15

# What `jax.lax.Precision` says of its levels; `jax_default_matmul_precision` has other
# names for them (https://docs.jax.dev/en/latest/jax.lax.html#jax.lax.Precision).
_LEVELS = {
    "default": {"gpu": _TENSOR_FLOAT, "tpu": _BFLOAT},
    "high": {"gpu": _TENSOR_FLOAT, "tpu": _TWO_BFLOATS},
    "highest": {"gpu": _SINGLE, "tpu": _SINGLE},
}
_SYNONYMS = {"bfloat16": "default", "tensorfloat32": "high", "float32": "highest"}

# Algorithms by name, as `jax.lax.DotAlgorithmPreset` has them.
_ALGORITHMS = {
    "BF16_BF16_BF16": _BFLOAT,
    "BF16_BF16_F32": _BFLOAT,
    "BF16_BF16_F32_X3": _TWO_BFLOATS,
    "TF32_TF32_F32": _TENSOR_FLOAT,
}


def product_rounding(platform: str, setting: str | None) -> float:
    """How much the factors of a product are rounded, relative to their size.

    Without a setting JAX takes what is fastest: on a CPU nothing is rounded further
    than to single precision, on a GPU to TensorFloat-32, on a TPU to bfloat16.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`; an unknown one is treated as a GPU.
        setting: `jax_default_matmul_precision`.

    Returns:
        The distance of one from the next number.
    """
    setting = setting or "default"
    if platform == "cpu":
        bits = _SINGLE
    elif (level := _SYNONYMS.get(setting, setting)) in _LEVELS:
        bits = _LEVELS[level]["tpu" if platform == "tpu" else "gpu"]
    else:
        bits = _ALGORITHMS.get(setting, _SINGLE)
    return 2.0**-bits
