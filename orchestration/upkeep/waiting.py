"""For what must not happen beside a build: take its lock, and wait for the one that runs."""

from __future__ import annotations

import time

import psycopg

from orchestration.steps import say

BUILD_LOCK = "select pg_advisory_xact_lock(hashtext('streamflow build'))"
WAIT = 600.0  # seconds for a build that runs


def wait_for_build(connection: psycopg.Connection, refused: Exception) -> None:
    """No new build starts while its lock is held here; one that runs would add rows. What a killed
    one left is marked, as the next build would do."""
    deadline, told = time.monotonic() + WAIT, False
    while True:
        running = connection.execute(
            "select 1 from ledger.builds where status = 'running'"
        ).fetchone()
        if running is None:
            return
        for _ in range(30):  # a live build has a session open nearly all the time
            connection.execute("select pg_stat_clear_snapshot()")
            live = connection.execute(
                "select 1 from pg_stat_activity where datname = current_database()"
                " and application_name = 'dbt' and state is not null"
            ).fetchone()
            if live:
                break
            time.sleep(0.1)
        else:
            connection.execute(
                "update ledger.builds set status = 'unpublished', ended_at = clock_timestamp()"
                " where status = 'running'"
            )
            return
        if time.monotonic() > deadline:
            raise refused
        if not told:
            say("  a build is running: waiting for it to end")
            told = True
        time.sleep(0.5)
