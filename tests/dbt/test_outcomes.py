"""What a build does beside computing: keeps cadence and results, refuses a cut-off file."""

from __future__ import annotations

from tests.dbt import builds
from tests.dbt.builds import everything, rows
from tests.dbt.conftest import Built
from tests.dbt.known import Delivery


def test_a_users_file_that_was_cut_off_empties_nothing(built: Built):
    before = everything()
    (delivery,) = [d for d in built.loaded if d.as_of == max(x.as_of for x in built.loaded)][-1:]
    assert len(delivery.files["users"]) > 30
    builds.deliver(Delivery(delivery.as_of, {"users": delivery.files["users"][:5]}))
    for allowed in ({}, {"allow_leaving": 20}):
        outcome = builds.build(**allowed)
        assert "Nothing was published" in outcome.output
        assert everything() == before
    leaving = int(outcome.output.partition("allow_leaving: ")[2].partition("'")[0])
    assert f"{leaving} of" in outcome.output
    assert builds.build(allow_leaving=leaving).success
    assert everything() != before


def test_the_results_of_each_test_are_in_the_ledger(built: Built):
    counts = dict(
        rows(
            "select status, count(*) from ledger.tests join ledger.publications"
            " using (invocation_id) group by 1"
        )
    )
    (tests,) = rows("select tests_run from ledger.publications")[0]
    assert sum(counts.values()) == tests
    assert counts["pass"] > 50
    builds.execute("update raw.usage set watch_minutes = -1")
    outcome = builds.build(recompute=True)
    assert not outcome.success
    failed = rows(
        "select name, failures > 0 from ledger.tests join ledger.builds using (invocation_id)"
        " where tests.status = 'fail' and builds.status = 'unpublished'"
    )
    assert failed
    assert all(found for _, found in failed)
