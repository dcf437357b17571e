"""What the bits of a program depend on beside the program."""

import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping

import jax


_PACKAGES = ("vtune", "jax", "jaxlib", "numpy")


@functools.cache
def fingerprint() -> Mapping[str, str]:
    """What has to be the same so that programs give the same bits.

    Returns:
        By name: the versions of packages and of the device's runtime, the kind and the
        number of devices, the processor and the cores that may be used, XLA's flags.
    """
    device = jax.devices()[0]
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    found["platform"] = device.platform
    found["runtime"] = str(device.client.platform_version)
    found["device"] = device.device_kind
    found["devices"] = str(jax.device_count())
    found["processor"] = _processor()
    found["cores"] = str(_cores())
    found["flags"] = os.environ.get("XLA_FLAGS", "")
    return found


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            models = [line for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    return models[0].partition(":")[2].strip() if models else platform.machine()
