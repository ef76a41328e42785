"""Training sets at one's own instants, from a file or a query.

If this fails, a label is trained with features of another instant or user, or a slip in the file is
taken for something else.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from orchestration import training_set as command
from streamflow_feast.training.own_labels import write_for_labels
from streamflow_feast.training.training_set import TrainingSetError

CSV = """\
user_id,event_timestamp,upgraded,note
b,2024-02-15T12:00:00Z,1,
a,2024-01-31,0,"first, of all"
a,2024-01-30T23:59:59.999999+00:00,1,too early
nobody,2024-02-15,0,
"""
WANTED = {  # of a at the end of January, see test_training_set; before it nothing is known
    ("a", "2024-01-30"): None,
    ("a", "2024-01-31"): 29.85,
    ("b", "2024-02-15"): 99.1,
    ("nobody", "2024-02-15"): None,
}


def fees(file: Path) -> dict[tuple[str, str], float | None]:
    frame = pd.read_parquet(file)
    return {
        (row.user_id, f"{row.event_timestamp:%Y-%m-%d}"): None
        if pd.isna(row.monthly_fee)
        else row.monthly_fee
        for row in frame.itertuples()
    }


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_of_labels(trained: datetime, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"upgrades.{form}"
    if form == "csv":
        file.write_text(CSV)
    else:
        frame = pd.DataFrame(
            {
                "user_id": ["b", "a", "a", "nobody"],
                "event_timestamp": pd.to_datetime(
                    [
                        f"2024-{moment}:00Z"
                        for moment in ("02-15T12:00", "01-31T00:00", "01-30T23:59", "02-15T00:00")
                    ]
                ),
                "upgraded": [1, 0, 1, 0],
                "note": [None, "first, of all", "too early", None],
            }
        )
        frame.to_parquet(file)
    made = write_for_labels(str(file), out=tmp_path / "out")
    assert fees(tmp_path / "out" / "training_df.parquet") == WANTED
    told = made.table.select(["user_id", "upgraded", "note"]).to_pylist()
    assert told[1] == {"user_id": "a", "upgraded": 0, "note": "first, of all"}
    manifest = json.loads((tmp_path / "out" / "training_df.json").read_text())
    assert (manifest["labels"], manifest["rows"]) == (file.name, 4)
    again = write_for_labels(str(file), known_at=trained, out=tmp_path / "again")
    assert again.table == made.table


def test_a_query_of_labels(trained: datetime, tmp_path: Path) -> None:
    query = (
        "select user_id, timestamptz '2024-01-31 00:00+00' as event_timestamp, true as stayed"
        " from published.user_features_latest group by user_id"
    )
    made = write_for_labels(query, out=tmp_path)
    assert fees(tmp_path / "training_df.parquet")["a", "2024-01-31"] == 29.85
    assert set(made.table.column("stayed").to_pylist()) == {True}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("user_id,when\na,2024-01-31\n", "it needs event_timestamp and the join keys"),
        ("event_timestamp,x\n2024-01-31,1\n", "it needs event_timestamp and the join keys"),
        ("user_id,event_timestamp\na,2024-01-31\nb,31.01.2024\n", "line 3, event_timestamp: '31.0"),
        ("user_id,event_timestamp\na,\n", "line 2, event_timestamp: "),
        ("user_id,event_timestamp\na,b,c,d\n", "cannot be read"),
    ],
)
def test_a_slip_is_named(trained: datetime, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(TrainingSetError) as failed:
        write_for_labels(str(file), out=tmp_path / "out")
    assert told in str(failed.value)
    assert not (tmp_path / "out").exists()


def test_an_id_of_digits_stays_a_text(trained: datetime, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("user_id,event_timestamp\n007,2024-01-31\n")
    made = write_for_labels(str(file), out=tmp_path)
    assert made.table.column("user_id").to_pylist() == ["007"]


def test_the_command(trained: datetime, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(CSV)
    assert command.main(["--labels", str(file), "--out", str(tmp_path)]) == 0
    assert "in all: 4 rows" in capsys.readouterr().out
    assert command.main(["--labels", str(tmp_path / "none.csv")]) == 1
    assert "cannot be read" in capsys.readouterr().err
