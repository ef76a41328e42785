"""Runs that a stopped Dagster leaves behind: in progress for ever, with the queue behind them.

A run lives in its daemon's process tree, and Dagster does not look whether it still does. So
whoever starts a daemon first reports as failed what the daemon before it was running; `run_retries`
in dagster.yaml then tries those runs again.
"""

from __future__ import annotations

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

IN_PROGRESS = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


def end_runs(instance: DagsterInstance) -> list[str]:
    """Report them, when no daemon of this instance runs; their ids."""
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=list(IN_PROGRESS))):
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "Dagster stopped while this run was being cancelled.")
        else:
            instance.report_run_failed(run, "Dagster stopped in the middle of this run.")
        ended.append(run.run_id)
    return ended
