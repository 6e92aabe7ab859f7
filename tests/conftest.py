"""For all tests: a shared CPU must not fail a property test, and a test run must not leave files behind."""

import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None, database=None)
settings.load_profile("shared")


@pytest.fixture(scope="module")
def policy():
    """The tiny policy and its tokenizer."""
    from grpo_helpers import models  # here, as the tests of plain files need not wait for it
    from grpo_helpers.profiles import TINY

    return models.load_policy(TINY)
