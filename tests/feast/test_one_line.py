"""What `feast` says when something is wrong: one line that names it, and a repair where there is
one. A traceback of Feast's own code tells a user nothing."""

from __future__ import annotations

import subprocess

import pytest

from streamflow_feast.__main__ import main
from streamflow_feast.connections import DatabaseUnreachable
from streamflow_feast.offline.store import StreamflowOfflineStoreConfig
from streamflow_feast.online.store import StreamflowOnlineStore
from tests.feast.offline import JAN, Offline
from tests.feast.test_commands import run

CUT = "substr(blob, 1, length(blob) / 2)"


def error(done: subprocess.CompletedProcess) -> str:
    """The one line on stderr of a command that failed."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_what_feast_refuses_is_one_line(offline: Offline, store):
    offline.publish(offline.month(JAN, ["a"]))
    nope = ("materialize-incremental", "2024-12-31T00:00:00", "-v", "nope")
    assert error(run(*nope)) == "Error: Feature view nope does not exist in project streamflow"
    reversed_range = error(run("materialize", "2024-12-01", "2024-01-01"))
    assert "2024-12-01" in reversed_range
    assert "greater than the given end_date 2024-01-01" in reversed_range
    assert "not-a-date" in error(run("materialize-incremental", "not-a-date"))
    debugged = run("--log-level", "debug", *nope)
    assert debugged.returncode == 1
    assert "Traceback (most recent call last)" in debugged.stderr


def test_what_our_stores_refuse_is_one_line(offline: Offline, store, monkeypatch, free_port):
    unpublished = error(run("materialize-incremental", "2024-12-31T00:00:00"))
    assert unpublished.startswith("Error: Nothing is published yet")
    monkeypatch.setenv("STREAMFLOW_PG_PASSWORD", "tr0ub4dor")
    refused = error(run("apply"))
    assert "password authentication failed" in refused
    assert "STREAMFLOW_PG_PASSWORD" in refused
    monkeypatch.setenv("STREAMFLOW_PG_PORT", str(free_port()))
    assert "does not answer (Connection refused)" in error(run("feature-views", "list"))


def test_training_reads_and_the_audit_tell_a_wrong_password(
    offline: Offline, store, monkeypatch, capsys
):
    online_store, view = StreamflowOnlineStore(), store.get_feature_view("user_features")
    monkeypatch.setenv("STREAMFLOW_PG_PASSWORD", "tr0ub4dor")
    config = StreamflowOfflineStoreConfig()
    for attempt in (config.connect, lambda: online_store.update(None, [], [view], [], [], True)):
        with pytest.raises(DatabaseUnreachable, match="password authentication failed") as failed:
            attempt()
        assert failed.value.why.kind == "login"
    assert main(["audit"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "STREAMFLOW_PG_PASSWORD" in said[0]


@pytest.mark.parametrize("how", [CUT, "''", "'\\xdeadbeef'"])
def test_a_damaged_registry_is_told_and_made_anew_by_an_apply(offline: Offline, store, how: str):
    offline.publish(offline.month(JAN, ["a", "b"]))
    with offline.connect() as connection:
        connection.execute(f"update online.registry set blob = {how}")
    told = error(run("materialize-incremental", "2024-12-31T00:00:00"))
    assert told.startswith("Error: Feast's registry 'streamflow' is damaged (")
    assert told.endswith("with: cd feature_repo && feast apply")
    if how == CUT:
        planned = run("plan")
        assert "Created feature view" in planned.stdout
        assert error(run("materialize-incremental", "2024-12-31T00:00:00")) == told
    applied = run("apply")
    assert applied.returncode == 0, applied.stderr
    said = [line for line in applied.stdout.splitlines() if "damaged" in line]
    assert len(said) == 1
    assert said[0].endswith("an apply makes it anew from dbt's manifest.")
    done = run("materialize-incremental", "2024-12-31T00:00:00")
    assert done.returncode == 0, done.stderr
    for name in offline.views:
        assert offline.online(name) == offline.expected(name)
