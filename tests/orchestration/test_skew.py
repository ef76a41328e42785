"""What was really served, logged and replayed: `make skew` finds the one value that is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.feature_logging import FeatureServiceLoggingSource
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from data.database import Database
from data.paths import FEATURE_REPO
from orchestration import steps
from orchestration.skew.command import main, skew
from serving.main import create_app
from serving.settings import Settings
from streamflow_feast.feature_logs import destination
from tests.serving.hand_made import running

ALWAYS = datetime(1970, 1, 1, tzinfo=timezone.utc)
Ask = Callable[..., list[Any]]


@pytest.fixture
def ask(sample: Database, tmp_path: Path) -> Ask:
    """Sends requests (path, or path and body) to an app that logs all it answers; its JSON."""

    def send(*requests: Any, **settings: Any) -> list[Any]:
        given = {"log_features": 1, "log_folder": tmp_path, **settings}

        async def run() -> list[Any]:
            async with running(create_app(Settings(**given), sample)) as client:
                answers = []
                for request in requests:
                    path, body = request if isinstance(request, tuple) else (request, None)
                    answer = await (client.post(path, json=body) if body else client.get(path))
                    assert answer.status_code == 200, answer.text
                    answers.append(answer.json())
                return answers

        return asyncio.run(run())

    return send


@pytest.fixture
def users(sample: Database) -> list[str]:
    query = "select user_id from online.usage_features order by 1 limit 5"
    with sample.connect() as connection:
        return [user for (user,) in connection.execute(query)]


def logs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def change(sample: Database, statement: str, *values: Any) -> None:
    with sample.connect() as connection:
        assert connection.execute(statement, values).rowcount == 1  # type: ignore[arg-type]


def every_route(users: list[str], devices: list[tuple[str, str]]) -> list[Any]:
    user, device = devices[0]
    return [
        f"/features/{users[0]}",
        "/features/nobody",
        f"/features/{users[1]}?service=retention_offers&offered_fee=9.99",
        ("/features", {"user_ids": users}),
        f"/entities/user_device/features?user_id={user}&device_id={device}",
        ("/entities/features", {"entities": [{"user_id": users[2]}], "service": "churn_v1"}),
        (
            "/get-online-features",
            {"feature_service": "churn_v1", "entities": {"user_id": users[:2]}},
        ),
    ]


@pytest.fixture
def devices(sample: Database) -> list[tuple[str, str]]:
    query = "select user_id, device_id from online.user_device_features order by 1, 2 limit 3"
    with sample.connect() as connection:
        return connection.execute(query).fetchall()  # type: ignore[return-value]


def test_nothing_is_logged_unless_it_is_asked_for(
    sample: Database, users: list[str], ask: Ask, tmp_path: Path
) -> None:
    ask(f"/features/{users[0]}", log_features=0)
    assert logs(tmp_path) == []
    assert not (tmp_path / ".salt").exists()
    with pytest.raises(steps.StepError, match=r"no answer since .* STREAMFLOW_API_LOG_FEATURES"):
        skew(ALWAYS, tmp_path)


def test_answers_of_every_route_are_replayed_and_equal(
    sample: Database, users: list[str], devices: list[tuple[str, str]], ask: Ask, tmp_path: Path
) -> None:
    ask(*every_route(users, devices))
    assert {file.parts[-3] for file in logs(tmp_path)} >= {"all_features", "retention_offers"}
    found = skew(ALWAYS, tmp_path)
    assert found.answers == 12
    assert found.values["different"] == found.values["pushed"] == found.values["gone"] == 0
    assert found.values["equal"] > 200
    assert found.values["unknown"] > 20  # the one whom nobody knows
    assert max(found.behind) == 0
    year = timedelta(days=365).total_seconds()
    assert min(found.ages) > year
    assert "0 differ" in str(found)
    assert skew(datetime.now(timezone.utc) - timedelta(hours=1), tmp_path).answers == 12


def test_keys_are_hashed_unless_asked_otherwise(
    sample: Database, users: list[str], ask: Ask, tmp_path: Path
) -> None:
    ask(f"/features/{users[0]}")
    hashed = b"".join(file.read_bytes() for file in logs(tmp_path))
    assert users[0].encode() not in hashed
    assert (tmp_path / ".salt").stat().st_mode & 0o077 == 0
    ask(f"/features/{users[0]}", log_salt="another secret")
    with pytest.raises(steps.StepError, match=r"no hashed key of all_features in .* is one of"):
        skew(ALWAYS, tmp_path, salt="a third")
    for file in logs(tmp_path):
        file.unlink()
    ask(f"/features/{users[0]}", log_keys=True)
    [file] = logs(tmp_path)
    assert pq.read_table(file).column("user_id").to_pylist() == [users[0]]
    assert skew(ALWAYS, tmp_path).values["equal"] > 20


def test_logs_have_the_form_that_feast_gives_the_logs_of_a_service(
    sample: Database, users: list[str], ask: Ask, tmp_path: Path
) -> None:
    [answer] = ask(f"/features/{users[0]}?service=churn_v1", log_keys=True)
    [file] = logs(tmp_path)
    logged = pq.read_table(file)
    store = FeatureStore(str(FEATURE_REPO))
    source = FeatureServiceLoggingSource(store.get_feature_service("churn_v1"), store.project)
    seconds = pa.timestamp("s", tz="UTC")  # of which Parquet makes milliseconds
    wanted = {
        field.name: pa.timestamp("ms", tz="UTC") if field.type == seconds else field.type
        for field in source.get_schema(store.registry)
    }
    there = {field.name: field.type for field in logged.schema}
    ours = {"__served", "__provenance", "__keys_hashed"}
    assert {name: kind for name, kind in there.items() if name not in ours} == wanted
    [row] = logged.to_pylist()
    fee = "subscription_features__monthly_fee"
    assert row[fee] == answer["features"]["monthly_fee"]
    assert f"{row[f'{fee}__timestamp']:%Y-%m-%d}" == answer["as_of"][:10]
    assert row[f"{fee}__status"] == FieldStatus.PRESENT
    # And Feast itself can hand such a table to the store.
    service = store.get_feature_service("churn_v1")
    service.logging_config = destination(tmp_path / "more", "churn_v1", 1)
    store.write_logged_features(logged, service)
    assert len(logs(tmp_path / "more")) == 1


def test_one_planted_difference_fails_and_is_named(
    sample: Database, users: list[str], ask: Ask, tmp_path: Path, capsys, monkeypatch
) -> None:
    ask(*[f"/features/{user}" for user in users])
    change(
        sample,
        "update online.usage_features set active_days_30d = coalesce(active_days_30d, 0) + 1"
        " where user_id = %s",
        users[2],
    )
    ask(*[f"/features/{user}" for user in users], log_keys=True)
    with pytest.raises(steps.StepError, match="is not what was published") as failed:
        skew(ALWAYS, tmp_path)
    assert "1 differ" in str(failed.value)
    assert f"usage_features__active_days_30d of {users[2]} of as_of" in str(failed.value)
    monkeypatch.setenv("STREAMFLOW_API_LOG_FOLDER", str(tmp_path))
    assert main(["--since", "2024-01-31"]) == 1
    assert "then run: make audit" in capsys.readouterr().err


def test_a_version_that_nobody_published_is_a_difference(
    sample: Database, users: list[str], ask: Ask, tmp_path: Path
) -> None:
    change(
        sample,
        "update online.usage_features set as_of = as_of + interval '1 day' where user_id = %s",
        users[0],
    )
    ask(f"/features/{users[0]}")
    with pytest.raises(steps.StepError, match="no such version is published"):
        skew(ALWAYS, tmp_path)


def test_a_pushed_row_has_nothing_to_compare_with_and_is_counted_apart(
    sample: Database, users: list[str], ask: Ask, tmp_path: Path
) -> None:
    now = datetime.now(timezone.utc)
    frame = pd.DataFrame(
        {"user_id": [users[0]], "as_of": [now], "known_at": [now], "skips_7d": [77]}
    )
    store = FeatureStore(str(FEATURE_REPO))
    view = store.get_feature_view("usage_features")
    for column in view.features:
        if column.name not in frame:
            frame[column.name] = None
    store.write_to_online_store("usage_features", frame)
    [answer, _] = ask(f"/features/{users[0]}", f"/features/{users[1]}")
    assert answer["features"]["skips_7d"] == 77
    found = skew(ALWAYS, tmp_path)
    assert found.values["pushed"] == len(view.features)
    assert found.values["different"] == 0


def test_a_publication_in_the_middle_of_traffic_is_told_by_its_delay(
    sample: Database, users: list[str], sample_drops: Path, ask: Ask, tmp_path: Path
) -> None:
    """Between publication and materialization what is served is right, and behind."""
    drop = max(sample_drops.iterdir(), key=lambda d: d.name)
    later = tmp_path / "late" / drop.name
    later.mkdir(parents=True)
    lines = (drop / "usage.csv").read_text().splitlines()
    day = date.fromisoformat(drop.name) - timedelta(days=2)
    header = lines[0].split(",")
    extra = {
        "session_id": "late-1", "user_id": users[0], "started_at": f"{day}T10:00:00Z",
        "device_id": "late-tv", "watch_minutes": "60", "skips": "5", "rebuffer_events": "1",
    }  # fmt: skip
    late = ",".join(extra[column] for column in header)
    (later / "usage.csv").write_text("\n".join([*lines, late]) + "\n")

    requests = [f"/features/{user}" for user in users]
    [before, *_] = ask(*requests)
    steps.ingest(later)
    steps.build()
    [between, *_] = ask(*requests)
    steps.materialize()
    [after, *_] = ask(*requests)
    assert before["features"] == between["features"]
    assert after["features"]["skips_7d"] != before["features"]["skips_7d"]
    found = skew(ALWAYS, tmp_path)
    assert found.answers == 15
    assert found.values["different"] == 0
    assert sum(seconds > 0 for seconds in found.behind) == 1  # usage of the one user, once
    assert "behind what was published" in str(found)


def test_the_folder_of_logs_must_be_one_that_can_be_written_to(
    sample: Database, tmp_path: Path, ask: Ask
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ask("/health", log_folder=tmp_path / "file")


def test_an_instant_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--since", "yesterday"])
    assert "'yesterday' is no date or instant" in capsys.readouterr().err


def test_a_database_without_registry_says_what_to_do(database: Database, tmp_path: Path) -> None:
    with pytest.raises((steps.StepError, psycopg.Error), match=r"make up|make apply|missing|lacks"):
        skew(ALWAYS, tmp_path)
