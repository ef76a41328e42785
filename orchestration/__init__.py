import streamflow_feast  # noqa: F401 - before Feast: see there
