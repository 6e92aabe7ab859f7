"""For all tests: a shared CPU must not fail a property test, and a test run must not leave files behind."""

from hypothesis import settings

settings.register_profile("shared", deadline=None, database=None)
settings.load_profile("shared")
