"""What every test relies on."""

import os

import hypothesis
import jaxtyping
import pytest

import tests.annotations


# No test finds programs that another compiled, nor leaves any in the user's folder.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"

jaxtyping.install_import_hook("vtune", f"{tests.annotations.__name__}.check_arrays")

# The first example of a property often compiles a program: no deadline can be kept, and
# each run tries other examples.
hypothesis.settings.register_profile(
    "vtune", deadline=None, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("vtune")


@pytest.fixture(scope="session")
def digits():
    """Scikit-learn's digits, scaled to 0..1, with a quarter held out."""
    from experiments import datasets

    return datasets.load("digits")
