"""The models of these tests: both architectures, with the vocabulary of integers and with text."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from glm_model import load
from tests.blank_filling.toy import IntegerTokenizer, golden_model


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Models this small lose time with a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def glm130b() -> tuple[Any, Any]:
    """The golden GLM-130B; a text is a list of ids."""
    return golden_model(), IntegerTokenizer()


@pytest.fixture(scope="package")
def demo() -> tuple[Any, Any]:
    """The demo model: ChatGLM-6B's architecture."""
    return load(device="cpu")


@pytest.fixture(scope="package")
def demo_int4() -> tuple[Any, Any]:
    """The demo model in INT4."""
    return load(device="cpu", quantize="int4")
