"""Generated drops are the same every time, pass the checker and are what they claim to be."""

from __future__ import annotations

import filecmp
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from data.contract import declared
from data.database import Database
from data.load.load import load
from data.sample.generate import Plan, PlanError, generate
from data.sample.rows import DRAWN
from tests.data.drops import ROOT, effective

EVENTS = {"usage": "session_id", "payments": "payment_id", "support": "ticket_id"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return generate(tmp_path_factory.mktemp("generated") / "drops", Plan(users=1_500, grain="both"))


def read(folders: list[Path], table: str) -> pd.DataFrame:
    """The files of all drops, one below the other, with the drop's date."""
    parts = [pd.read_csv(folder / f"{table}.csv", dtype=str) for folder in folders]
    return pd.concat(
        [part.assign(drop=folder.name) for folder, part in zip(folders, parts, strict=True)],
        ignore_index=True,
    )


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    plan = Plan(users=40, months=3, grain="both")
    once, again = (generate(tmp_path / name, plan) for name in ("once", "again"))
    other = generate(tmp_path / "other", Plan(users=40, months=3, seed=2, grain="both"))
    files = [f"{name}.csv" for name in DRAWN]
    for one, two, three in zip(once, again, other, strict=True):
        assert filecmp.cmpfiles(one, two, files, shallow=False) == (files, [], [])
        assert not filecmp.cmp(one / "usage.csv", three / "usage.csv", shallow=False)


def test_a_grain_has_its_files(tmp_path: Path) -> None:
    state = {"users.csv", "subscriptions.csv", "labels.csv"}
    events = {"usage.csv", "payments.csv", "support.csv"}
    aggregates = {"usage_agg_30d.csv", "payments_agg_90d.csv", "support_agg_90d.csv"}
    for grain, files in (("events", state | events), ("aggregates", state | aggregates)):
        (folder,) = generate(tmp_path / grain, Plan(users=5, months=1, grain=grain))
        assert {path.name for path in folder.glob("*.csv")} == files
        assert folder.name == "2024-01-31"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("name: skips\n", "name: jumps\n"), "the sample draws usage.skips, which _sources"),
        (("unit: skips, nullable: true,", "unit: skips,"), None),
        (("name: payments\n", "name: charges\n"), "the sample draws payments.payment_id, which"),
        (("- name: skips\n", "- {name: mood, data_type: text}\n          - name: skips\n"),
         "the sample has no values for usage.mood; declare it nullable"),
    ],
)  # fmt: skip
def test_a_declaration_that_the_sample_does_not_fit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], expected: str | None
) -> None:
    shipped = ROOT / "dbt_project" / "models" / "staging" / "_sources.yml"
    path = tmp_path / "models" / "staging" / "_sources.yml"
    path.parent.mkdir(parents=True)
    assert change[0] in shipped.read_text()
    path.write_text(shipped.read_text().replace(*change))
    monkeypatch.setenv("DBT_PROJECT_DIR", str(tmp_path))
    if expected is None:
        assert generate(tmp_path / "drops", Plan(users=5, months=1))
    else:
        with pytest.raises(PlanError, match=expected):
            generate(tmp_path / "drops", Plan(users=5, months=1))


def test_drops_load_in_any_order(database: Database, tmp_path: Path) -> None:
    """Also that every generated drop passes the checks."""
    folders = generate(tmp_path / "drops", Plan(users=60, months=4, grain="both"))
    for folder in folders:
        load(folder, database)
    forward = {table.name: effective(database, table.name) for table in declared()}
    with database.connect() as connection:
        for table in [table.name for table in declared()] + ["loads"]:
            connection.execute(f"truncate raw.{table}")  # type: ignore[arg-type]
    for place in (3, 0, 2, 1):
        load(folders[place], database)
    assert {table.name: effective(database, table.name) for table in declared()} == forward


def test_churn_depends_on_usage_payments_and_tickets(folders: list[Path]) -> None:
    labels = read(folders, "labels")
    data = labels.assign(churned=labels["churn_label"] == "true")
    for table in ("usage_agg_30d", "payments_agg_90d", "support_agg_90d"):
        data = data.merge(read(folders, table), on=["user_id", "drop"], validate="one_to_one")
    rate = data["churned"].mean()
    assert 0.03 < rate < 0.15

    def churn(where: pd.Series) -> float:
        assert where.sum() > 100
        return float(data.loc[where, "churned"].mean())

    hours = data["watch_hours_30d"].astype(float)
    before = hours.groupby(data["user_id"]).shift()  # the rows are in the drops' order
    failed = data["failed_payments_90d"].astype(int)
    tickets = data["support_tickets_90d"].astype(int)
    assert churn(hours < 0.5 * before) > 1.8 * churn(hours > before)
    assert churn(failed >= 2) > 2 * churn(failed == 0)
    assert churn(tickets >= 2) > 1.5 * churn(tickets == 0)


def test_users_who_churn_leave_and_new_ones_come(folders: list[Path]) -> None:
    users, labels = read(folders, "users"), read(folders, "labels")
    listed = {day: set(part["user_id"]) for day, part in users.groupby("drop")}
    days = sorted(listed)
    for day, following in pairwise(days):
        churned = labels[(labels["drop"] == day) & (labels["churn_label"] == "true")]
        assert listed[day] - listed[following] == set(churned["user_id"])
        assert len(listed[following] - listed[day]) > 20
    assert (users["signup_date"] < users["drop"]).all()


def test_deliveries_are_as_untidy_as_real_ones(folders: list[Path]) -> None:
    previous = dict(zip((f.name for f in folders[1:]), (f.name for f in folders), strict=False))
    for table, key in EVENTS.items():
        rows = read(folders, table)
        time = rows.columns[2]
        first = rows.drop_duplicates(key)
        late = first[first[time].str[:10] < first["drop"].map(previous).fillna("")]
        assert len(late) > 5, "rows that come with a later drop"
        values = rows.drop_duplicates(rows.columns.difference(["drop"]).tolist())
        assert len(rows) - len(values) > 5, "rows that are repeated"
        assert values[key].duplicated().sum() > 5, "rows that are corrected"
        inside = rows.drop_duplicates()
        assert len(rows) > len(inside), "rows that stand twice in a file"
        assert not inside.duplicated([key, "drop"]).any(), "one id, one event in a file"
    usage, plans = read(folders, "usage"), read(folders, "subscriptions")
    for column in ("device_id", "skips", "rebuffer_events"):
        assert 0.002 < usage[column].isna().mean() < 0.05
    assert (plans["plan_stream_tv"].isna() == (plans["net_service"] == "No")).all()
    history = (usage["started_at"].min()[:10], read(folders, "payments")["attempted_at"].min()[:10])
    assert history < ("2023-11-02", "2023-08-05"), "90 and 180 days before the first drop"


def test_delivered_aggregates_are_the_features_of_what_was_stated(folders: list[Path]) -> None:
    """Computed again from the files in pandas; else dbt's reconciliation would blame the events."""
    as_of = pd.Timestamp(folders[2].name, tz="UTC")
    stated = {
        table: read(folders[:3], table).drop_duplicates(key, keep="last")
        for table, key in EVENTS.items()
    }
    for table, time in (("usage", "started_at"), ("support", "opened_at")):
        stated[table][time] = pd.to_datetime(stated[table][time])
    usage = stated["usage"]
    age = as_of - usage["started_at"]
    usage = usage.assign(minutes=usage["watch_minutes"].astype(float))[age > pd.Timedelta(0)]
    month = usage[age <= pd.Timedelta(days=30)].groupby("user_id")
    week = usage[age <= pd.Timedelta(days=7)].groupby("user_id")
    given = pd.read_csv(folders[2] / "usage_agg_30d.csv").set_index("user_id")
    expected = pd.DataFrame(
        {
            "watch_hours_30d": month["minutes"].sum() / 60,
            "avg_session_mins_7d": week["minutes"].mean(),
            "unique_devices_30d": month["device_id"].nunique(),
            "skips_7d": week["skips"].apply(lambda skips: skips.dropna().astype(int).sum()),
            "rebuffer_events_7d": week["rebuffer_events"].apply(
                lambda stalls: stalls.dropna().astype(int).sum()
            ),
        }
    ).reindex(given.index)
    none_means_zero = expected.columns.difference(["avg_session_mins_7d"])
    expected[none_means_zero] = expected[none_means_zero].fillna(0)
    pd.testing.assert_frame_equal(given, expected, check_dtype=False, rtol=1e-12)

    support = stated["support"]
    age = as_of - support["opened_at"]
    support = support[(age > pd.Timedelta(0)) & (age <= pd.Timedelta(days=90))]
    resolved = pd.to_datetime(support["resolved_at"])
    support = support.assign(hours=(resolved - support["opened_at"]) / pd.Timedelta(hours=1))
    given = pd.read_csv(folders[2] / "support_agg_90d.csv").set_index("user_id")
    tickets = support.groupby("user_id")["hours"]
    expected = pd.DataFrame({"n": tickets.size(), "hours": tickets.mean()}).reindex(given.index)
    assert (given["support_tickets_90d"] == expected["n"].fillna(0)).all()
    pd.testing.assert_series_equal(
        given["ticket_avg_resolution_hrs_90d"], expected["hours"], check_names=False, rtol=1e-12
    )


def test_only_generated_drops_are_replaced(tmp_path: Path) -> None:
    (folder,) = generate(tmp_path / "drops", Plan(users=3, months=1))
    generate(tmp_path / "drops", Plan(users=3, months=2))
    (tmp_path / "drops" / "2024-03-31").mkdir()
    with pytest.raises(PlanError, match="2024-03-31 was not generated and would be lost"):
        generate(tmp_path / "drops", Plan(users=3, months=1))
    assert (folder / "users.csv").exists()


def test_the_folder_itself_may_be_a_mount_point(tmp_path: Path) -> None:
    """What is mounted cannot be replaced, and nothing beside it is ours to write to."""
    out = tmp_path / "drops"
    out.mkdir()
    (out / ".gitignore").write_text("*\n")
    mounted = out.stat().st_ino
    generate(out, Plan(users=3, months=2))
    (again,) = generate(out, Plan(users=3, months=1))
    assert out.stat().st_ino == mounted
    assert {entry.name for entry in out.iterdir()} == {".gitignore", again.name}
    assert [entry.name for entry in tmp_path.iterdir()] == ["drops"]


def test_a_folder_that_cannot_be_written_to_is_named_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # no folder: also root may not write into it
    with pytest.raises(PlanError, match=r"cannot write to .*drops: Not a directory; .* belongs to"):
        generate(tmp_path / "file" / "drops", Plan(users=3, months=1))
