"""How many trial-steps a second does vtune make, beside what one would run instead?

The same networks in the same lanes are trained by vtune; by a hand-written scan over
the vmapped step; by a hand-written scan for the one exact shape; by a jitted step that
is called from Python, as in a trial of Optuna or Ray; by an ensemble of `torch.func`
with Adam by hand, where torch is installed; and by several processes that share the
device, each calling a jitted step. In turns, and of each the best turn counts.

    python experiments/benchmarks/peers.py --lanes 16 --processes 4
"""

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.networks import CLASSES, CNN, MLP, Network, Work
from experiments.benchmarks.sides import (
    Side,
    by_python,
    by_scan,
    by_vmapped_scan,
    by_vtune,
    race,
)
from vtune.training.device import device_rule


NETWORKS = {
    "MLP 784-512-10": Network(MLP(512), (784,), 50),
    "MLP 784-128-10": Network(MLP(128), (784,), 100),
    "MLP 784-64-10": Network(MLP(64), (784,), 200),
    "CNN 16-32-128": Network(CNN(), (28, 28, 1), 4),
}


def by_torch(work: Work) -> Side:
    """An ensemble of `torch.func`: the vmapped step is called from Python.

    Its initial weights and the order of its data are torch's own.
    """
    import torch  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # JAX lets products of float32 run in TF32 where a GPU can.
    torch.set_float32_matmul_precision("high")
    models = [torch_model(torch, work.module).to(device) for _ in range(work.lanes)]
    stacked, _ = torch.func.stack_module_state(models)
    parameters = {name: value.detach() for name, value in stacked.items()}
    update = torch_adam(torch, parameters, torch.tensor(work.rates, device=device))
    x = torch.tensor(np.moveaxis(work.x, -1, 1).copy(), device=device)
    y = torch.tensor(work.y, device=device).long()

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        logits = torch.func.functional_call(models[0], parameters, (x,))
        return torch.nn.functional.cross_entropy(logits, y)

    gradients_of = torch.func.vmap(torch.func.grad_and_value(loss))

    def step(batch: Any) -> Any:
        gradients, losses = gradients_of(parameters, x[batch], y[batch])
        update(gradients)
        return losses.mean()

    def turn() -> tuple[float, float]:
        started = time.perf_counter()
        order = torch.rand(work.lanes, len(x), device=device).argsort(1)
        batches = order.reshape(work.lanes, work.steps, work.batch)
        losses = [step(batches[:, index]) for index in range(work.steps)]
        loss = float(torch.stack(losses).mean())
        return time.perf_counter() - started, loss

    return turn


def torch_adam(torch: Any, parameters: Any, rates: Any) -> Callable[[Any], None]:
    """Adam, which changes parameters in place and has a rate for each lane.

    Args:
        torch: the package.
        parameters: by name, with a lane axis.
        rates: the learning rate of each lane.

    Returns:
        What takes a step along some gradients.
    """
    firsts = {name: torch.zeros_like(value) for name, value in parameters.items()}
    seconds = {name: torch.zeros_like(value) for name, value in parameters.items()}
    count = 0

    def update(gradients: Any) -> None:
        nonlocal count
        count += 1
        for name, gradient in gradients.items():
            first, second = firsts[name], seconds[name]
            first.mul_(0.9).add_(gradient, alpha=1 - 0.9)
            second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
            size = (second / (1 - 0.999**count)).sqrt_().add_(1e-8)
            rate = rates.reshape(-1, *[1] * (gradient.ndim - 1)) / (1 - 0.9**count)
            parameters[name] -= rate * first / size

    return update


def torch_model(torch: Any, module: Any) -> Any:
    """The same network as a module of torch, which has channels first.

    Args:
        torch: the package.
        module: the network.
    """
    layers = torch.nn
    if isinstance(module, MLP):
        return layers.Sequential(
            layers.Linear(784, module.units),
            layers.ReLU(),
            layers.Linear(module.units, CLASSES),
        )
    first, second = module.channels
    return layers.Sequential(
        layers.Conv2d(1, first, 3, padding=1),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(first, second, 3, padding=1),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(49 * second, module.units),
        layers.ReLU(),
        layers.Linear(module.units, CLASSES),
    )


@contextlib.contextmanager
def by_processes(arguments: Sequence[str], name: str, processes: int) -> Iterator[Side]:
    """Several processes that share the device, each with its part of the lanes.

    Args:
        arguments: those of this script.
        name: the network's.
        processes: how many.
    """
    # Each takes of a GPU's memory what it needs, not three quarters.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, *arguments]
                    + ["--processes", str(processes)]
                    + ["--worker", str(worker), name],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for worker in range(processes)
        ]
        for child in children:
            _answer(child)

        def turn() -> tuple[float, float]:
            started = time.perf_counter()
            for child in children:
                assert child.stdin is not None
                print(file=child.stdin, flush=True)
            losses = [_answer(child) for child in children]
            return time.perf_counter() - started, float(np.mean(losses))

        yield turn


def _answer(child: subprocess.Popen[str]) -> float:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"A worker ended with {child.wait()}; its error is above.")
    return float(line)


def serve(flags: argparse.Namespace) -> None:
    """Trains a worker's lanes for an epoch at every line that is read.

    Args:
        flags: those of this script, `worker` among them.
    """
    index, name = flags.worker
    work = NETWORKS[name].work(flags.lanes, flags.batch, flags.steps)
    turn = by_python(work, range(int(index), flags.lanes, flags.processes))
    print(0.0, flush=True)
    for _ in sys.stdin:
        print(turn()[1], flush=True)


def measure(
    flags: argparse.Namespace, arguments: Sequence[str], name: str
) -> dict[str, Any]:
    """The trial-steps a second of all sides for a network.

    Args:
        flags: the sizes.
        arguments: those of this script.
        name: the network's.
    """
    work = NETWORKS[name].work(flags.lanes, flags.batch, flags.steps)
    processes = min(flags.processes, work.lanes)
    sides = {
        "vtune": by_vtune(work),
        "vmapped scan": by_vmapped_scan(work),
        "scan": by_scan(work),
        "from Python": by_python(work, range(work.lanes)),
    }
    if importlib.util.find_spec("torch") is not None:
        sides["torch.func"] = by_torch(work)
    with by_processes(arguments, name, processes) as turn:
        sides[f"{processes} processes"] = turn
        results = race(sides, flags.turns)
    total = work.lanes * work.steps
    rates = {side: total / result.seconds for side, result in results.items()}
    ratios = {side: rates["vtune"] / rate for side, rate in rates.items()}
    losses = {side: result.loss for side, result in results.items()}
    return {"network": name, "rates": rates, "vtune_by": ratios, "losses": losses}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and the same as one line of JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--lanes", type=int, help="as many as fill a program here")
    parser.add_argument("--steps", type=int, help="of an epoch, for every network")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--worker", nargs=2, help="train this worker's lanes, here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to try it")
    flags = parser.parse_args(arguments)
    flags.lanes = flags.lanes or device_rule(jax.default_backend()).most
    if flags.smoke:
        flags.lanes, flags.steps, flags.turns = 2, 2, 1
        flags.networks = ["MLP 784-64-10", "CNN 16-32-128"]
    if flags.worker:
        serve(flags)
        return
    print(
        f"{flags.lanes} lanes, Adam, batch {flags.batch}, on "
        f"{jax.devices()[0].device_kind}: trial-steps a second"
    )
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: there is no ensemble of torch.func beside it.")
    found = []
    for name in flags.networks:
        row = measure(flags, arguments, name)
        found.append(row)
        if row is found[0]:
            print(" " * 16 + "".join(f"{side:>14}" for side in row["rates"]))
        rates = "".join(f"{rate:>14,.0f}" for rate in row["rates"].values())
        print(f"{name:16}{rates}", flush=True)
    print(json.dumps({**vars(flags), "rows": found}))


if __name__ == "__main__":
    main()
