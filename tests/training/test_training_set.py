"""Training sets as files: their content, their sameness, and what is refused.

January's labels: a churned, b and c stayed, d has none. February: b churned, the others stayed.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.database import Database
from orchestration import steps
from orchestration import training_set as command
from streamflow_feast.training import files as training_files
from streamflow_feast.training import training_set as training
from streamflow_feast.training.training_set import TrainingSetError, write_training_set

from .conftest import CORRECTION, write_drop

SECOND = timedelta(seconds=1)
JANUARY_CSV = """\
user_id,as_of,months_active,monthly_fee,total_paid,paperless_billing,plan_stream_tv,\
plan_stream_movies,net_service,contract_type,watch_hours_30d,avg_session_mins_7d,\
unique_devices_30d,skips_7d,rebuffer_events_7d,failed_payments_90d,support_tickets_90d,\
ticket_avg_resolution_hrs_90d,churn_label
a,2024-01-31T00:00:00Z,8,29.85,238.8,True,True,False,DSL,One year,24.483650766787413,29.1,2,7,\
1,,,,True
b,2024-01-31T00:00:00Z,7,99.1,,False,,,No,Two year,0.1,,1,0,0,,,,False
c,2024-01-31T00:00:00Z,6,20.0,120.0,,False,True,Fiber optic,Month-to-month,,,,,,,,,False
"""


def hashes(folder: Path, name: str = "training_df") -> list[str]:
    return [training_files.sha256(folder / f"{name}.{ending}") for ending in ("csv", "parquet")]


def labels(out: Path, name: str = "training_df") -> list[tuple[str, str, bool | None]]:
    table = pq.read_table(out / f"{name}.parquet")
    columns = (table.column(c).to_pylist() for c in ("user_id", "as_of", "churn_label"))
    return [(user, f"{as_of:%m-%d}", label) for user, as_of, label in zip(*columns, strict=True)]


def test_a_snapshot_as_csv_parquet_and_manifest(trained: datetime, tmp_path: Path) -> None:
    made = write_training_set("2024-01-31", out=tmp_path)
    assert (tmp_path / "training_df.csv").read_text() == JANUARY_CSV
    table = pq.read_table(tmp_path / "training_df.parquet")
    assert table == made.table
    assert str(table.schema.field("plan_stream_tv").type) == "bool"
    assert str(table.schema.field("unique_devices_30d").type) == "int64"
    assert str(table.schema.field("as_of").type) == "timestamp[us, tz=UTC]"
    manifest = json.loads((tmp_path / "training_df.json").read_text())
    assert manifest["as_of"] == ["2024-01-31T00:00:00Z"]
    assert (
        datetime.fromisoformat(manifest["publication"]["known_at"].replace("Z", "+00:00"))
        == trained
    )
    assert manifest["rows"] == 3
    assert manifest["snapshots"] == {
        "2024-01-31": {"rows": 3, "churned": 1, "stayed": 2, "unlabelled": 0, "left_out": 1}
    }
    assert manifest["nulls"]["plan_stream_tv"] == 1
    assert manifest["nulls"]["support_tickets_90d"] == 3
    assert manifest["feature_service"] == "churn_v1"
    assert "subscription_features:monthly_fee" in manifest["features"]
    assert {"dbt_invocation_id", "code_version"} <= manifest["publication"].keys()
    assert [file["sha256"] for file in manifest["files"].values()] == hashes(tmp_path)
    assert str(made).startswith("2024-01-31: 3 rows, 1 churned, 1 without a label left out\n")


def test_the_same_bytes_after_a_later_correction(trained: datetime, tmp_path: Path) -> None:
    """Otherwise a model cannot be trained again on what it was trained on."""
    before, again, now = tmp_path / "before", tmp_path / "again", tmp_path / "now"
    write_training_set("2024-01-31,2024-02-29", out=before)
    steps.ingest(write_drop(tmp_path, "2024-01-31", CORRECTION))
    later = steps.build().known_at
    write_training_set("2024-01-31,2024-02-29", known_at=trained, out=again)
    assert hashes(again) == hashes(before)
    between = trained + (later - trained) / 2
    write_training_set("2024-01-31,2024-02-29", known_at=between, out=again)
    assert hashes(again) == hashes(before)
    write_training_set("2024-01-31,2024-02-29", out=now)
    assert hashes(now) != hashes(before)
    # c's January label was taken back, b's corrected; February is untouched by that.
    assert labels(now) == [
        ("a", "01-31", True), ("a", "02-29", False), ("b", "01-31", True), ("b", "02-29", True),
        ("c", "02-29", False), ("d", "02-29", False),
    ]  # fmt: skip
    fees = pq.read_table(now / "training_df.parquet").column("monthly_fee").to_pylist()
    assert fees[0] == 31.0


def test_unlabelled_users_are_counted_or_kept(trained: datetime, tmp_path: Path) -> None:
    made = write_training_set("2024-01-31", keep_unlabelled=True, out=tmp_path)
    assert labels(tmp_path)[-1] == ("d", "01-31", None)
    assert made.manifest["snapshots"]["2024-01-31"] == {
        "rows": 4, "churned": 1, "stayed": 2, "unlabelled": 1, "left_out": 0
    }  # fmt: skip
    last = (tmp_path / "training_df.csv").read_text().splitlines()[-1]
    assert last.endswith("100.0,True,False,False,DSL,Month-to-month,,,,,,,,,")


@pytest.mark.parametrize(
    "as_of",
    ["2024-01-31..2024-02-29", "2024-02-29,2024-01-31", ["2024-01-01..2024-12-31", "2024-01-31"]],
)
def test_a_panel_has_every_user_at_every_as_of(
    trained: datetime, tmp_path: Path, as_of: Any
) -> None:
    made = write_training_set(as_of, out=tmp_path, name="panel")
    assert labels(tmp_path, "panel") == [
        ("a", "01-31", True), ("a", "02-29", False), ("b", "01-31", False), ("b", "02-29", True),
        ("c", "01-31", False), ("c", "02-29", False), ("d", "02-29", False),
    ]  # fmt: skip
    assert list(made.manifest["snapshots"]) == ["2024-01-31", "2024-02-29"]
    assert "in all: 7 rows" in str(made)


def test_another_feature_service(trained: datetime, tmp_path: Path) -> None:
    made = write_training_set("2024-01-31", service="all_features", out=tmp_path)
    assert {"tenure_days", "watch_hours_trend_30d"} <= set(made.table.column_names)
    with pytest.raises(
        TrainingSetError, match="no feature service v9; there are: all_features, ch"
    ):
        write_training_set("2024-01-31", service="v9", out=tmp_path)


@pytest.mark.parametrize(
    ("as_of", "says"),
    [
        (
            "2024-03-31",
            r"no labels for as_of 2024-03-31; there are: 2024-01-31, 2024-02-29.*make load",
        ),
        ("2025-01-01..2025-12-31", r"no labels for as_of 2025-01-01..2025-12-31"),
        ("2024-02-30", "'2024-02-30' is no date or instant"),
    ],
)
def test_a_snapshot_that_is_not_there_says_which_are(
    trained: datetime, tmp_path: Path, as_of: str, says: str
) -> None:
    with pytest.raises(TrainingSetError, match=says):
        write_training_set(as_of, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_may_still_change_is_refused(trained: datetime, tmp_path: Path) -> None:
    """A set that could come out differently tomorrow is not reproducible."""
    with pytest.raises(TrainingSetError, match="lies in the future"):
        write_training_set("2024-01-31", known_at="2999-01-01", out=tmp_path)
    with pytest.raises(TrainingSetError, match="nothing was published by 2000-01-01"):
        write_training_set("2024-01-31", known_at="2000-01-01", out=tmp_path)
    stamp = trained + SECOND / 1000
    with Database().connect() as connection:
        connection.execute(
            "insert into ledger.builds "
            "(known_at, invocation_id, status, load_from, load_to, recompute)"
            " values (%s, 'i', 'running', 0, 0, false)",
            [stamp],
        )
    with pytest.raises(TrainingSetError, match=r"dbt build i, stamped .* has not ended"):
        write_training_set("2024-01-31", known_at=stamp, out=tmp_path)
    for known_at in (None, stamp - SECOND / 10_000):
        assert write_training_set("2024-01-31", known_at=known_at, out=tmp_path).table.num_rows == 3


def test_a_build_being_stamped_is_waited_for(trained: datetime) -> None:
    """start_build reads its clock before others can see the stamp; both happen under one lock."""
    with Database().connect() as starting, Database().connect() as asking:
        starting.execute("select pg_advisory_xact_lock(hashtext('streamflow build'))")
        asking.execute("set lock_timeout = 100")
        with pytest.raises(Exception, match="lock timeout"):
            training.resolve_known_at(asking, datetime.now(timezone.utc))


def test_nothing_published_says_what_to_run(database: Database, tmp_path: Path) -> None:
    with pytest.raises(TrainingSetError, match="nothing is published yet: cd dbt_project && dbt b"):
        write_training_set("2024-01-31", out=tmp_path)


def test_the_command(trained: datetime, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--as-of", "2024-01-31", "--out", str(tmp_path), "--known-at", trained.isoformat()]
    assert command.main(arguments) == 0
    assert "2024-01-31: 3 rows, 1 churned" in capsys.readouterr().out
    assert command.main(["--as-of", "2024-03-31"]) == 1
    assert "no labels for as_of 2024-03-31" in capsys.readouterr().err


# --- the files ---------------------------------------------------------------------------------


def table() -> pa.Table:
    instant = datetime(2024, 1, 31, tzinfo=timezone.utc)
    return pa.table(
        {
            "t": pa.array(
                [instant, instant + timedelta(microseconds=1), None], pa.timestamp("us", "UTC")
            ),
            "f": pa.array([0.1 + 0.2, 1e20, None]),
            "i": pa.array([2**62 + 1, None, -1]),
            "b": pa.array([True, None, False]),
            "s": pa.array(['a,"b"', "", None]),
        }
    )


def test_csv_values_read_back_exactly(tmp_path: Path) -> None:
    training_files.write(table(), {}, tmp_path, "t")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines == [
        "t,f,i,b,s",
        '2024-01-31T00:00:00Z,0.30000000000000004,4611686018427387905,True,"a,""b"""',
        "2024-01-31T00:00:00.000001Z,1e+20,,,",
        ",,-1,False,",
    ]
    read = pd.read_csv(tmp_path / "t.csv", float_precision="round_trip")
    assert read["f"].tolist()[:2] == [0.1 + 0.2, 1e20]


def test_how_the_rows_arrived_does_not_show(tmp_path: Path) -> None:
    whole = pa.concat_tables([table()] * 50_000).combine_chunks()
    pieces = pa.concat_tables([whole.slice(0, 77_777), whole.slice(77_777)])
    training_files.write(whole, {}, tmp_path, "whole")
    training_files.write(pieces, {}, tmp_path, "pieces")
    assert hashes(tmp_path, "whole") == hashes(tmp_path, "pieces")


def test_a_write_that_fails_leaves_the_old_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_files.write(table(), {"old": 1}, tmp_path, "t")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(training_files, "write_parquet", full)
    with pytest.raises(OSError, match="no space"):
        training_files.write(table().slice(1), {}, tmp_path, "t")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_on_demand_features_are_part_of_a_set_and_what_they_need_is_not(
    trained: datetime, database: Database, tmp_path: Path
) -> None:
    """Also as known then; of the functions, which are code, today's are used."""
    with database.connect() as connection:
        connection.execute(
            "update ledger.publications set manifest = jsonb_set(manifest::jsonb, '{exposures,"
            "exposure.streamflow.retention_offers,config,meta,feast,on_demand}',"
            """ '["watch_cost"]')::json"""
        )
    made = write_training_set(
        "2024-01-31", known_at=trained, service="retention_offers", out=tmp_path
    )
    names = ["monthly_fee", "contract_type", "watch_hours_30d", "fee_per_watch_hour"]
    assert made.table.column_names == ["user_id", "as_of", *names, "churn_label"]
    assert made.table.column("fee_per_watch_hour").to_pylist() == [
        29.85 / 24.483650766787413,
        99.1 / 0.1,
        None,
    ]
    assert made.manifest["features"][-1] == "watch_cost:fee_per_watch_hour"
    with pytest.raises(TrainingSetError, match=r"retention_offers has features .* offered_fee"):
        write_training_set("2024-01-31", service="retention_offers", out=tmp_path)
