"""Where the pytest plugin was: environments that were made before it moved to `runfold.pytest_plugin` still name it."""

from runfold.pytest_plugin import pytest_configure

__all__ = ["pytest_configure"]
