"""What is known beforehand of a kind of device: measured once, shipped as a table."""

import dataclasses
import os
from collections.abc import Mapping

import jax


@dataclasses.dataclass(frozen=True)
class DeviceRule:
    """A kind of device.

    Args:
        most: the most lanes of one `vmap`ped program; more gain nothing.
        running: the trials that are worth training at a time, where there is memory
            enough for their states: so many keep programs full and cores busy.
        small: the multiply-adds of a training step up to which `vmap` over lanes is
            faster than one lane after another; None where it always is.
        compiling: the seconds of a core that compiling a `PROGRAM` takes.
        starting: the seconds of a training step that do not depend on its sizes.
        multiplying: multiply-adds a second.
        moving: entries of the state that a second's steps read, update and write.
    """

    most: int
    running: int
    small: int | None
    compiling: float
    starting: float
    multiplying: float
    moving: float


# So many equations of a training step and an evaluation are what `compiling` is for.
PROGRAM = 200

# Measured with `experiments/benchmarks/lanes.py`. A CPU gains by vmap only while a step
# is so small that the cost of starting its operations dominates. What a CPU's programs
# cost to compile was fitted to the searches of `cnn.py` and `thousand.py` beside it.
DEVICE_RULES: Mapping[str, DeviceRule] = {
    "cpu": DeviceRule(16, 64, 8_000_000, 4.0, 1e-4, 3e10, 3e9),
    "gpu": DeviceRule(128, 128, None, 3.0, 3e-5, 1e13, 1e11),
    "tpu": DeviceRule(128, 128, None, 3.0, 3e-5, 3e13, 1e11),
}


def device_rule(platform: str) -> DeviceRule:
    """The rule for a platform; an unknown one is treated as a GPU."""
    return DEVICE_RULES.get(platform, DEVICE_RULES["gpu"])


# The part of a program's memory that the states of all trials that train may take.
_SHARE_OF_STATES = 4


def capacity(rule: DeviceRule, memory: float, state: int) -> int:
    """How many trials are trained at a time.

    Args:
        rule: the device's rule.
        memory: the bytes that a program may take.
        state: the bytes of the largest state so far; 0 where none is known yet.

    Returns:
        As many as the rule says, or as have room; at least those of one program, and
        no more until a state is known.
    """
    if not state:
        return rule.most
    room = min(memory / _SHARE_OF_STATES / state, rule.running)
    return max(rule.most, int(room))


# A CPU's programs share its memory with everything else.
_SHARE_OF_HOST = 4


def memory_limit() -> int | None:
    """The bytes of memory that programs may use, or None where that is not known.

    It is what the device's allocator may take; on a CPU a quarter of the physical
    memory, in whole GiB, so that the same machine says the same after a restart.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return max(1, round(physical / _SHARE_OF_HOST / 2**30)) * 2**30
