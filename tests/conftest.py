"""For all tests: a shared CPU must not fail a property test, and a test run must not leave files behind."""

import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None, database=None)
settings.load_profile("shared")


def pytest_collection_modifyitems(items):
    """A file's tests share a process; solutions that train, the longest of all, are shared out one by one."""
    for item in items:
        alone = "solutions_that_train" in item.name
        item.add_marker(pytest.mark.xdist_group(item.name if alone else item.path.name))


@pytest.fixture(scope="module")
def policy():
    """The tiny policy and its tokenizer."""
    from grpo_helpers import models, profiles  # here, as the tests of plain files need not wait for it

    return models.load_policy(profiles.TINY)
