"""Devices that do not exist and allocations that do not fit are refused in words."""

import pytest
import torch

from tp4lib.base import device
from tp4lib.base.errors import InputError


def test_resolve():
    assert device.resolve("cpu") == torch.device("cpu")
    assert device.resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps:x", "meta", ""])
def test_unknown_devices_are_refused(name):
    with pytest.raises(InputError, match="--device"):
        device.resolve(name)


def test_memory():
    cpu = torch.device("cpu")
    there = device.available_memory(cpu)
    assert 2**26 < there < 2**46
    device.require_memory(there // 2, cpu, "a small thing")
    with pytest.raises(
        InputError, match=r"matrix needs .* GiB, but .* GiB are available on cpu; try --max-vocab 1"
    ):
        device.require_memory(there * 2, cpu, "the matrix", "try --max-vocab 10")
