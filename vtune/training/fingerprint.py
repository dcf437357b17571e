"""What the bits of a program depend on beside the program."""

import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping

import jax

from vtune.training.device import memory_limit


_PACKAGES = ("vtune", "jax", "jaxlib", "numpy")


@functools.cache
def fingerprint() -> Mapping[str, str]:
    """What has to be the same so that programs give the same bits.

    Returns:
        By name: the versions of packages and of the device's runtime, the kind and the
        number of devices, the processor and the cores that may be used, the memory that
        lanes are planned with, XLA's flags.
    """
    device = jax.devices()[0]
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    found["platform"] = device.platform
    found["runtime"] = str(device.client.platform_version)
    found["device"] = device.device_kind
    found["devices"] = str(jax.device_count())
    found["processor"] = _processor()
    found["cores"] = str(cores())
    found["memory"] = str(memory_limit())
    found["flags"] = os.environ.get("XLA_FLAGS", "")
    return found


def cores() -> int:
    """The processor's cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def instructions() -> str:
    """The processor's instruction sets, as far as the system tells them."""
    return _processor_property("flags", "Features") or platform.processor()


def _processor() -> str:
    return _processor_property("model name") or platform.machine()


def _processor_property(*names: str) -> str:
    """What Linux tells of the first core under one of some names; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            found = [line for line in lines if line.startswith(names)]
    except OSError:
        return ""
    return found[0].partition(":")[2].strip() if found else ""
