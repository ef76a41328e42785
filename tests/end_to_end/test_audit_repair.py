"""The command that a failed audit names repairs what it found.

If this fails, an operator follows the message and the audit fails again.
"""

import pytest

from data.database import Database
from orchestration import steps


def test_a_tampered_row_is_repaired_by_the_command_the_audit_names(sample: Database) -> None:
    with sample.connect() as connection:
        connection.execute("update online.subscription_features set monthly_fee = monthly_fee + 1")
    with pytest.raises(steps.StepError, match=r"then run: make materialize FULL=1 && make audit$"):
        steps.audit()
    steps.materialize()  # sees nothing new to publish, and leaves the row
    with pytest.raises(steps.StepError):
        steps.audit()
    steps.materialize(full=True)
    assert all(result.passed for result in steps.audit())
