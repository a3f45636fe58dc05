"""Every module of the analysis has an example in its docstrings; that it runs is a test of pytest's own."""

import doctest
import pkgutil
from importlib import import_module

import pytest

from latf_sampling import analysis

MODULES = [module.name for module in pkgutil.iter_modules(analysis.__path__, "latf_sampling.analysis.")]


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_examples(name):
    found = doctest.DocTestFinder(exclude_empty=True).find(import_module(name))
    assert any(entry.examples for entry in found) or name.endswith(".arguments")
