"""Trials of several widths under every optimizer of Optax: right together, or apart.

The tables say which. An optimizer of Optax that stands in none of them fails the tests.
"""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import vtune as vt
from vtune.fusion.refusal import Refusal
from vtune.fusion.sizes import training_structure
from vtune.fusion.widen import widen
from vtune.training.check import compare
from vtune.training.data import dataset
from vtune.training.loop import tracer, training_loop


# What Optax would rather not have is in it for some time yet.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

WIDTHS = (3, 5, 8)
BATCH, STEPS = 8, 3

RANDOM = np.random.default_rng(0)
DATA = dataset(
    RANDOM.normal(size=(STEPS * BATCH, 4)).astype(np.float32),
    RANDOM.normal(size=STEPS * BATCH).astype(np.float32),
)
LOOP = training_loop(DATA, None, batch_size=BATCH)


class Network(nn.Module):
    """Parameters of which none, one and all axes vary."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(self.width)(x))
        x = nn.sigmoid(nn.Dense(self.width + 1, use_bias=False)(x))
        return x.sum(-1) * self.param("scale", nn.initializers.ones, (1,))


# Optimizers.


def then(transform):
    """An optimizer that takes steps along what a transformation makes of gradients."""
    return optax.chain(transform, optax.sgd(0.1))


def each(function):
    """An optimizer that changes the gradient of each parameter by a function of it."""
    return then(optax.stateless(lambda updates, _: jax.tree.map(function, updates)))


def matrices(parameters):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)


def first_to_second(parameters):
    return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(), parameters)


def on_even_steps(step, *_, **__):
    return step % 2 == 0


def norm(updates, *_, **__):
    return optax.tree.norm(updates)


def every_second(optimizer, **options):
    return optax.MultiSteps(optimizer, 2, **options).gradient_transformation()


def skip_large(updates, step, parameters):
    return optax.skip_large_updates(updates, step, parameters, max_squared_norm=1.0)


def sharpness_aware():
    ascent = optax.chain(contrib.normalize(), optax.sgd(0.05))
    # Its update takes fewer arguments than its type promises.
    return optax.GradientTransformation(*contrib.sam(optax.sgd(0.1), ascent))


def clipped_by_quantile(gradient):
    limit = jnp.quantile(jnp.abs(gradient), 0.9)
    return jnp.clip(gradient, -limit, limit)


def standardised(gradient):
    return (gradient - gradient.mean()) / (gradient.std() + 1e-3)


def by_inverse_roots(gradient):
    """The preconditioner of Shampoo, from power iterations."""
    if gradient.ndim < 2:
        return gradient
    gram = gradient @ gradient.T + jnp.eye(len(gradient))
    left, _ = optax.matrix_inverse_pth_root(gram, 4)
    return left @ gradient


def by_eigenvalues(gradient):
    """The same, from eigenvalues."""
    if gradient.ndim < 2:
        return gradient
    values, vectors = jnp.linalg.eigh(gradient @ gradient.T)
    return vectors @ jnp.diag((values + 1e-3) ** -0.25) @ vectors.T @ gradient


def orthogonalised(gradient):
    if gradient.ndim < 2:
        return gradient
    basis, triangle = jnp.linalg.qr(gradient)
    return basis @ jnp.sign(triangle)


def largest_quarter(gradient):
    flat = jnp.abs(gradient).ravel()
    least = jax.lax.top_k(flat, max(1, flat.size // 4))[0][-1]
    return jnp.where(jnp.abs(gradient) >= least, gradient, 0)


def cautious(optimizer):
    """Leaves out what points against the gradient, and makes the rest larger for it."""

    def update(updates, state, parameters=None):
        found, state = optimizer.update(updates, state, parameters)
        kept = jax.tree.map(lambda a, b: (a * b < 0).astype(a.dtype), found, updates)
        scale = jax.tree.map(lambda k: k / jnp.maximum(k.mean(), 1e-3), kept)
        return jax.tree.map(jnp.multiply, found, scale), state

    return optax.GradientTransformation(optimizer.init, update)


# All widths share a program, and each trial is what it is alone. What follows a comma
# tells apart what one function can be asked for.
RIGHT = {
    "adabelief": lambda: optax.adabelief(1e-2),
    "adadelta": lambda: optax.adadelta(1e-1),
    "adafactor": lambda: optax.adafactor(1e-2, momentum=0.9),
    "adagrad": lambda: optax.adagrad(1e-2),
    "adam": lambda: optax.adam(1e-2),
    "adamax": lambda: optax.adamax(1e-2),
    "adamaxw": lambda: optax.adamaxw(1e-2),
    "adamw": lambda: optax.adamw(1e-2, mask=matrices),
    "adan": lambda: optax.adan(1e-2),
    "adaptive_grad_clip": lambda: then(optax.adaptive_grad_clip(0.01)),
    "adaptive_grad_clip, axis": lambda: then(optax.adaptive_grad_clip(0.01, axis=0)),
    "add_decayed_weights": lambda: then(optax.add_decayed_weights(0.1)),
    "add_noise": lambda: then(optax.add_noise(0.1, 0.5, key=0)),
    "amsgrad": lambda: optax.amsgrad(1e-2),
    "apply_every": lambda: then(optax.apply_every(2)),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(1e-2), 3),
    "centralize": lambda: then(optax.centralize()),
    "chain": lambda: optax.chain(
        optax.clip(0.5), optax.clip_by_global_norm(0.1), optax.lamb(1e-2)
    ),
    "clip": lambda: then(optax.clip(0.01)),
    "clip_by_block_rms": lambda: then(optax.clip_by_block_rms(0.01)),
    "clip_by_global_norm": lambda: then(optax.clip_by_global_norm(0.01)),
    "conditionally_mask": lambda: optax.conditionally_mask(
        optax.sgd(0.1), on_even_steps
    ),
    "conditionally_transform": lambda: optax.conditionally_transform(
        optax.sgd(0.1), on_even_steps
    ),
    "ema": lambda: then(optax.ema(0.9)),
    "flatten": lambda: optax.flatten(optax.adam(1e-2)),
    "flatten, block RMS": lambda: optax.flatten(then(optax.clip_by_block_rms(0.01))),
    "freeze": lambda: then(optax.freeze(matrices)),
    "fromage": lambda: optax.fromage(1e-2),
    "identity": lambda: then(optax.identity()),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(1e-2),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(
        optax.adam
    )(optax.linear_schedule(0.1, 0.0, 9)),
    "keep_params_nonnegative": lambda: optax.chain(
        optax.sgd(0.1), optax.keep_params_nonnegative()
    ),
    "lamb": lambda: optax.lamb(1e-2, weight_decay=0.1),
    "lars": lambda: optax.lars(1e-1, weight_decay=0.1),
    "lbfgs": lambda: optax.lbfgs(1e-2, memory_size=2, linesearch=None),
    "lion": lambda: optax.lion(1e-2),
    "masked": lambda: then(optax.masked(optax.add_decayed_weights(0.1), matrices)),
    "multi_transform": lambda: optax.multi_transform(
        {True: optax.adam(1e-2), False: optax.sgd(0.1)}, matrices
    ),
    "MultiSteps": lambda: every_second(optax.adam(1e-2)),
    "MultiSteps, skipping": lambda: every_second(
        optax.adam(1e-2), should_skip_update_fn=skip_large
    ),
    "named_chain": lambda: optax.named_chain(
        ("clip", optax.clip_by_global_norm(0.01)), ("adam", optax.adam(1e-2))
    ),
    "noisy_sgd": lambda: optax.noisy_sgd(1e-2, key=0),
    "normalize_by_update_norm": lambda: then(optax.normalize_by_update_norm()),
    "novograd": lambda: optax.novograd(1e-2),
    "optimistic_adam": lambda: optax.optimistic_adam(1e-2),
    "optimistic_adam_v2": lambda: optax.optimistic_adam_v2(1e-2),
    "optimistic_gradient_descent": lambda: optax.optimistic_gradient_descent(1e-2),
    "partition": lambda: optax.partition(
        {True: optax.adam(1e-2), False: optax.set_to_zero()}, matrices
    ),
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "polyak_sgd, plus": lambda: optax.polyak_sgd(variant="sps+"),
    "radam": lambda: optax.radam(1e-2),
    "rmsprop": lambda: optax.rmsprop(1e-2, centered=True, momentum=0.9),
    "rprop": lambda: optax.rprop(1e-2),
    "scale": lambda: optax.scale(-0.1),
    "scale_by_adadelta": lambda: then(optax.scale_by_adadelta()),
    "scale_by_adam": lambda: then(optax.scale_by_adam()),
    "scale_by_adamax": lambda: then(optax.scale_by_adamax()),
    "scale_by_adan": lambda: then(optax.scale_by_adan()),
    "scale_by_amsgrad": lambda: then(optax.scale_by_amsgrad()),
    "scale_by_belief": lambda: then(optax.scale_by_belief()),
    "scale_by_distance_over_gradients": lambda: optax.chain(
        optax.scale_by_distance_over_gradients(), optax.sgd(1.0)
    ),
    "scale_by_factored_rms": lambda: then(optax.scale_by_factored_rms()),
    "scale_by_lbfgs": lambda: then(optax.scale_by_lbfgs(2)),
    "scale_by_learning_rate": lambda: optax.scale_by_learning_rate(0.1),
    "scale_by_lion": lambda: then(optax.scale_by_lion()),
    "scale_by_novograd": lambda: then(optax.scale_by_novograd()),
    "scale_by_optimistic_gradient": lambda: then(optax.scale_by_optimistic_gradient()),
    "scale_by_param_block_norm": lambda: then(optax.scale_by_param_block_norm()),
    "scale_by_param_block_rms": lambda: then(optax.scale_by_param_block_rms()),
    "scale_by_polyak": lambda: optax.chain(optax.scale_by_polyak(), optax.scale(-1.0)),
    "scale_by_radam": lambda: then(optax.scale_by_radam()),
    "scale_by_rms": lambda: then(optax.scale_by_rms()),
    "scale_by_rprop": lambda: then(optax.scale_by_rprop(0.1)),
    "scale_by_rss": lambda: then(optax.scale_by_rss()),
    "scale_by_schedule": lambda: optax.scale_by_schedule(
        optax.linear_schedule(-0.1, 0.0, 9)
    ),
    "scale_by_sign": lambda: then(optax.scale_by_sign()),
    "scale_by_sm3": lambda: then(optax.scale_by_sm3()),
    "scale_by_stddev": lambda: then(optax.scale_by_stddev()),
    "scale_by_trust_ratio": lambda: then(optax.scale_by_trust_ratio()),
    "scale_by_yogi": lambda: then(optax.scale_by_yogi()),
    "selective_transform": lambda: optax.selective_transform(
        optax.adam(1e-2), freeze_mask=matrices
    ),
    "set_to_zero": lambda: optax.set_to_zero(),
    "sgd": lambda: optax.sgd(1e-1, momentum=0.9, nesterov=True),
    "sign_sgd": lambda: optax.sign_sgd(1e-2),
    "signum": lambda: optax.signum(1e-2),
    "sm3": lambda: optax.sm3(1e-1),
    "snapshot": lambda: then(optax.snapshot("norm", norm)),
    "stateless": lambda: each(jnp.sign),
    "stateless_with_tree_map": lambda: then(
        optax.stateless_with_tree_map(lambda update, parameter: update + parameter)
    ),
    "trace": lambda: then(optax.trace(0.9)),
    "with_extra_args_support": lambda: optax.with_extra_args_support(optax.sgd(0.1)),
    "yogi": lambda: optax.yogi(1e-2),
    "zero_nans": lambda: then(optax.zero_nans()),
    "contrib.acprop": lambda: contrib.acprop(1e-2),
    "contrib.ademamix": lambda: contrib.ademamix(1e-2),
    "contrib.adopt": lambda: contrib.adopt(1e-2),
    "contrib.cocob": lambda: contrib.cocob(),
    "contrib.dadapt_adamw": lambda: contrib.dadapt_adamw(),
    "contrib.dog": lambda: contrib.dog(),
    "contrib.dowg": lambda: contrib.dowg(),
    "contrib.madgrad": lambda: contrib.madgrad(1e-2),
    "contrib.mechanize": lambda: contrib.mechanize(optax.adam(1e-2)),
    "contrib.momo": lambda: contrib.momo(),
    "contrib.momo_adam": lambda: contrib.momo_adam(),
    "contrib.normalize": lambda: then(contrib.normalize()),
    "contrib.prodigy": lambda: contrib.prodigy(),
    "contrib.reduce_on_plateau": lambda: optax.chain(
        optax.adam(1e-2), contrib.reduce_on_plateau(patience=1)
    ),
    "contrib.sam": sharpness_aware,
    "contrib.scale_by_acprop": lambda: then(contrib.scale_by_acprop()),
    "contrib.scale_by_ademamix": lambda: then(contrib.scale_by_ademamix()),
    "contrib.scale_by_adopt": lambda: then(contrib.scale_by_adopt()),
    "contrib.scale_by_cocob": lambda: contrib.scale_by_cocob(),
    "contrib.scale_by_madgrad": lambda: contrib.scale_by_madgrad(1e-2),
    "contrib.scale_by_simplified_ademamix": lambda: then(
        contrib.scale_by_simplified_ademamix()
    ),
    "contrib.schedule_free": lambda: contrib.schedule_free(optax.adam(1e-2), 1e-2),
    "contrib.schedule_free_adamw": lambda: contrib.schedule_free_adamw(1e-2),
    "contrib.schedule_free_sgd": lambda: contrib.schedule_free_sgd(0.1),
    "contrib.simplified_ademamix": lambda: contrib.simplified_ademamix(1e-2),
    "contrib.split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(
        optax.adam(1e-2)
    ),
}

# So are some that people write themselves.
OWN = {
    "own, cautious": lambda: cautious(optax.adam(1e-2)),
    "own, clipped by quantile": lambda: each(clipped_by_quantile),
    "own, inverse roots": lambda: each(by_inverse_roots),
    "own, standardised": lambda: each(standardised),
}

# A matrix with fewer columns than rows is another program, as it is transposed; the
# other widths share one, and are right in it.
RIGHT_UNLESS_TRANSPOSED = {
    "adafactor, factored": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=2),
    "scale_by_factored_rms, factored": lambda: then(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2)
    ),
    "contrib.muon": lambda: contrib.muon(1e-2),
    "contrib.muon, adaptive": lambda: contrib.muon(1e-2, adaptive=True),
    "contrib.muon, Schatten": lambda: contrib.muon(1e-2, preconditioning="schatten"),
    "contrib.scale_by_muon": lambda: then(
        optax.masked(
            contrib.scale_by_muon(weight_dimension_numbers=first_to_second), matrices
        )
    ),
}

# Refused, because of an equation that no rule can make right.
REFUSED = {
    "contrib.galore": (lambda: contrib.galore(1e-2, rank=2), "svd"),
    "contrib.scale_by_galore": (
        lambda: then(optax.masked(contrib.scale_by_galore(rank=2), matrices)),
        "svd",
    ),
    "own, eigenvalues": (lambda: each(by_eigenvalues), "eigh"),
    "own, orthogonalised": (lambda: each(orthogonalised), "qr"),
}

# Each width has a program of its own, as it asks for another number of results.
APART = {"own, largest quarter": lambda: each(largest_quarter)}

# What a training step of `vt.Model` cannot give what it asks for, whatever the width.
UNFIT = {
    "lbfgs, line search": (lambda: optax.lbfgs(), "line search"),
    "lookahead": (lambda: optax.lookahead(optax.sgd(0.1), 2, 0.5), "'fast'"),
    "measure_with_ema": (
        lambda: then(optax.monitor({"norm": optax.measure_with_ema(norm, 0.9)})),
        "changes the structure of the state",
    ),
    "monitor": (
        lambda: then(optax.monitor({"norm": norm})),
        "changes the structure of the state",
    ),
    "scale_by_backtracking_linesearch": (
        lambda: then(optax.scale_by_backtracking_linesearch(3)),
        "line search",
    ),
    "scale_by_zoom_linesearch": (
        lambda: then(optax.scale_by_zoom_linesearch(3)),
        "line search",
    ),
    "contrib.differentially_private_aggregate": (
        lambda: contrib.differentially_private_aggregate(1.0, 0.1, key=0),
        "batch dimension",
    ),
    "contrib.dpsgd": (lambda: contrib.dpsgd(1e-2, 1.0, 0.1, seed=0), "batch dimension"),
    "contrib.hutchinson_estimator_diag_hessian": (
        lambda: then(contrib.hutchinson_estimator_diag_hessian()),
        "obj_fn",
    ),
    "contrib.sam, opaque": (
        lambda: optax.GradientTransformation(
            *contrib.sam(optax.sgd(0.1), optax.sgd(0.1), opaque_mode=True)
        ),
        "grad_fn",
    ),
    "contrib.sophia": (lambda: contrib.sophia(1e-2), "obj_fn"),
}

# Functions of Optax that make no optimizer, and the modules that hold nothing else.
NO_OPTIMIZERS = {
    "init_empty_state",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "skip_large_updates",
    "skip_not_finite",
    "value_and_grad_from_state",
    "contrib.schedule_free_eval_params",
}
OTHER_MODULES = (
    "losses",
    "schedules._schedule",
    "schedules._join",
    "tree_utils",
    "microbatching",
    "_src.linear_algebra",
    "_src.numerics",
    "_src.update",
    "_src.utils",
)

# Some of each kind: by entry, by parameter, of all parameters, of rows and columns.
QUICK = {
    "adamw",
    "lamb",
    "clip_by_global_norm",
    "adafactor, factored",
    "contrib.galore",
}


def makers():
    """The public functions of Optax that may make an optimizer, by name."""
    other = tuple(f"optax.{name}" for name in OTHER_MODULES)
    return {
        prefix + name
        for prefix, module in (("", optax), ("contrib.", contrib))
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and not function.__module__.startswith(other)
    } | {"MultiSteps"}


MAKERS = makers()


def parameters(table):
    """The entries that the installed release of Optax has."""
    cases = []
    for name, value in table.items():
        start = name.split(",")[0]
        if start == "own" or start in MAKERS:
            marks = () if name in QUICK else pytest.mark.ci
            given = value if isinstance(value, tuple) else (value,)
            cases.append(pytest.param(*given, id=name, marks=marks))
    return cases


def traced(optimizer):
    trace = tracer(LOOP, DATA, None)
    return [
        trace(vt.Model(Network(width), optimizer, "mean_squared_error"))
        for width in WIDTHS
    ]


def sharing(traces):
    """The traces that have one structure, of each structure."""
    groups = {}
    for trace in traces:
        groups.setdefault(training_structure(trace), []).append(trace)
    return list(groups.values())


def assert_right(traces):
    """Compares the narrowest with itself alone; rounding is no excuse."""
    widening = widen(traces, traces[-1])
    batches = [
        np.asarray(leaf).reshape(STEPS, BATCH, *leaf.shape[1:])
        for leaf in jax.tree.leaves(DATA.batch)
    ]
    differences = compare(widening, traces[0], batches, None, seed=0)
    assert len(differences) > len(traces[0].state_avals)
    assert [d for d in differences if not d.error <= d.tolerance] == []


def test_every_optimizer_of_optax_has_an_entry():
    tables = (RIGHT, RIGHT_UNLESS_TRANSPOSED, REFUSED, APART, UNFIT)
    known = {name.split(",")[0] for table in tables for name in table}
    missing = MAKERS - known - NO_OPTIMIZERS
    assert not missing, (
        f"no table says whether trials of several widths are right with {missing}; "
        f"add each to the one that tells, or to `NO_OPTIMIZERS`"
    )


@pytest.mark.parametrize("optimizer", parameters(RIGHT | OWN))
def test_all_widths_are_right_in_one_program(optimizer):
    (traces,) = sharing(traced(optimizer()))
    assert_right(traces)


@pytest.mark.parametrize("optimizer", parameters(RIGHT_UNLESS_TRANSPOSED))
def test_widths_of_one_structure_are_right_in_one_program(optimizer):
    narrow, traces = sharing(traced(optimizer()))
    assert len(narrow) == 1
    assert_right(traces)


@pytest.mark.parametrize(("optimizer", "primitive"), parameters(REFUSED))
def test_what_padding_would_change_is_refused(optimizer, primitive):
    traces = sharing(traced(optimizer()))[-1]
    assert len(traces) > 1
    with pytest.raises(Refusal) as refusal:
        widen(traces, traces[-1])
    assert refusal.value.primitive == primitive
    assert "which padding would change" in str(refusal.value)


@pytest.mark.parametrize("optimizer", parameters(APART))
def test_other_structures_are_other_programs(optimizer):
    assert len(sharing(traced(optimizer()))) == len(WIDTHS)


@pytest.mark.parametrize(("optimizer", "message"), parameters(UNFIT))
def test_what_no_training_step_can_use_says_so(optimizer, message):
    with pytest.raises(Exception, match=message):
        traced(optimizer())
