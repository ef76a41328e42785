"""What tests of upkeep share with those of dbt: histories that were built once."""

from tests.dbt.conftest import built, first_build, shared  # noqa: F401
