"""Which platform and which device are picked."""

import pytest
import torch

from latf_sampling.core import platforms
from latf_sampling.errors import InstallationError, SettingsError


def test_platform_of_a_name():
    assert platforms.pick_platform("Reference").getName() == "Reference"
    assert platforms.pick_platform("cpu").getName() == "CPU"


def test_unknown_platform_names_those_there_are():
    with pytest.raises(SettingsError, match=r"'Abacus'.*Reference, CPU"):
        platforms.pick_platform("Abacus")


def test_platform_that_is_not_here(monkeypatch):
    monkeypatch.setattr(platforms, "GPU_PLATFORMS", ("Connemara",))
    with pytest.raises(InstallationError, match=r"Connemara is not available here.*Reference, CPU"):
        platforms.pick_platform("connemara")


def test_platform_without_a_gpu_depends_on_size(monkeypatch):
    monkeypatch.setattr(platforms, "GPU_PLATFORMS", ())
    assert platforms.pick_platform(particles=22).getName() == "Reference"
    assert platforms.pick_platform(particles=platforms.SMALL).getName() == "Reference"
    assert platforms.pick_platform(particles=platforms.SMALL + 1).getName() == "CPU"
    assert platforms.pick_platform().getName() == "CPU"


def test_a_gpu_is_picked_only_if_it_works(monkeypatch):
    monkeypatch.setattr(platforms, "GPU_PLATFORMS", ("CPU",))  # stands in for one
    assert platforms.pick_platform(particles=2).getName() == "CPU"
    monkeypatch.setattr(platforms, "usable", lambda platform: "No compatible device is available")
    assert platforms.pick_platform(particles=2).getName() == "Reference"


def test_platform_that_makes_no_context_is_not_usable():
    assert platforms.usable("CPU") is None
    assert "Abacus" in platforms.usable("Abacus")


def test_devices():
    assert platforms.pick_device("cpu") == torch.device("cpu")
    assert platforms.pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(SettingsError, match="'gpu'"):
        platforms.pick_device("gpu")
    with pytest.raises(InstallationError, match=r"'cuda:99' is not available here; available: cpu"):
        platforms.pick_device("cuda:99")
