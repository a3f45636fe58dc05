"""Examples in the docstrings of every module of the analysis run."""

import doctest
import pkgutil
from importlib import import_module

import pytest

from latf_sampling import analysis

MODULES = [module.name for module in pkgutil.iter_modules(analysis.__path__, "latf_sampling.analysis.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    results = doctest.testmod(import_module(name))
    assert results.failed == 0
    assert results.attempted > 0 or name.endswith(".arguments")
