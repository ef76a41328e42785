"""The steps: what they say when they fail, and that doing them again changes nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from data import paths
from data.database import Database
from orchestration import steps
from orchestration.__main__ import main, parser
from orchestration.steps import StepError
from streamflow_feast.dbt.manifest import manifest_path
from tests.orchestration.conftest import as_ofs


def count(table: str) -> int:
    with Database().connect() as connection:
        query = psycopg.sql.SQL("select count(*) from {}").format(
            psycopg.sql.Identifier(*table.split("."))
        )
        return connection.execute(query).fetchone()[0]


def test_every_step_again_changes_nothing(
    sample: Database, sample_drops: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tables = ["raw.usage", "raw.loads", "features.usage_features", "online.usage_features"]
    before = {table: count(table) for table in tables}

    loaded = [steps.ingest(drop).load_id for drop in sorted(sample_drops.iterdir())]
    built = steps.build()
    steps.apply()
    steps.materialize()
    steps.audit()

    assert loaded == [None, None, None]
    assert set(built.rows_appended.values()) == {0}
    assert {table: count(table) for table in tables} == before
    shown = capsys.readouterr().out
    assert "online equals offline" in shown
    assert "Since the ttl" not in shown  # a start date that our engine does not go by


def test_a_server_that_is_gone_is_worth_a_retry(
    database: Database,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("STREAMFLOW_PG_PORT", str(free_port()))
    (tmp_path / "2024-01-31").mkdir()
    (tmp_path / "2024-01-31" / "users.csv").write_text(
        "user_id,signup_date,user_gender,user_is_senior,has_family,has_dependents\n"
    )
    for step in (lambda: steps.ingest(tmp_path / "2024-01-31"), steps.build, steps.audit):
        with pytest.raises(StepError, match="make up && make") as failed:
            step()
        assert failed.value.transient
        assert "\n" not in str(failed.value)


def test_a_bad_drop_is_told_in_one_line_to_logs_and_in_full_to_people(
    database: Database, sample_drops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drop = tmp_path / "2024-01-31"
    shutil.copytree(sample_drops / "2024-01-31", drop)
    lines = (drop / "labels.csv").read_text().splitlines()
    lines[2] = lines[2].split(",")[0] + ",maybe"
    lines[4] = lines[4].split(",")[0] + ",perhaps"
    (drop / "labels.csv").write_text("\n".join(lines) + "\n")

    with pytest.raises(StepError, match=r"labels.csv.*line 3.*maybe") as failed:
        steps.ingest(drop)
    assert not failed.value.transient
    assert failed.value.repair == f"make load DROP={drop}"
    assert "\n" not in str(failed.value)

    assert main(["ingest", str(drop)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "line 3" in line and "maybe" in line]
    assert [line for line in told if "line 5" in line and "perhaps" in line]
    assert count("raw.users") == 0


def test_in_a_folder_of_drops_a_bad_one_keeps_the_others_from_nothing(
    database: Database, sample_drops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drops = tmp_path / "drops"
    for day in ("2024-01-31", "2024-02-29"):
        shutil.copytree(sample_drops / day, drops / day)
    file = drops / "2024-01-31" / "labels.csv"
    good = file.read_text()
    file.write_text(good.replace("false", "maybe", 1))

    assert main(["pipeline", "--drops", str(drops)]) == 1
    told = capsys.readouterr()
    assert "1 of 2 drops refused: 2024-01-31" in told.err
    assert "maybe" in told.out
    assert as_ofs("online.usage_features") == {"2024-02-29"}

    file.write_text(good)
    assert main(["pipeline", "--drops", str(drops)]) == 0
    assert as_ofs("published.usage_features") == {"2024-01-31", "2024-02-29"}


def test_no_user_is_invented_where_there_is_no_drop(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", "--drops", str(tmp_path)]) == 0
    assert "no drop in" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_failed_test_is_named_and_nothing_is_published(sample: Database) -> None:
    with sample.connect() as connection:
        connection.execute("update raw.subscriptions set monthly_fee = -5")
    before = count("ledger.publications")

    with pytest.raises(StepError, match=r"nothing was published: .*monthly_fee") as failed:
        steps.build(recompute=True)

    assert not failed.value.transient
    assert failed.value.repair == "make build"
    assert count("ledger.publications") == before


@pytest.mark.parametrize(
    ("step", "repair"),
    [
        (steps.apply, "make build apply"),
        (steps.materialize, "make apply materialize"),
        (lambda: steps.vector("anyone"), "make apply materialize"),
        (lambda: steps.training_set(["2024-01-31"]), "make training-set AS_OF=2024-01-31"),
    ],
    ids=["apply", "materialize", "vector", "training-set"],
)
def test_a_step_too_early_names_the_one_before_it(
    database: Database, step: Callable[[], object], repair: str
) -> None:
    with pytest.raises(StepError) as failed:
        step()
    assert failed.value.repair == repair
    assert "\n" not in str(failed.value)


def test_a_vector_has_every_feature_and_nulls_for_a_stranger(sample: Database) -> None:
    stranger = steps.vector("nobody-we-know")
    assert stranger.pop("user_id") == "nobody-we-know"
    assert len(stranger) > 16
    assert set(stranger.values()) == {None}


def test_the_code_version_is_the_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.delenv("STREAMFLOW_CODE_VERSION", raising=False)
    assert paths.code_version() == ""  # no checkout: a wheel
    monkeypatch.setenv("STREAMFLOW_CODE_VERSION", "abc")  # an image
    assert paths.code_version() == "abc"


def test_code_that_git_does_not_know_marks_the_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model that was never committed made those features: the commit alone does not say how."""

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    models = tmp_path / "dbt_project" / "models"
    models.mkdir(parents=True)
    (models / "a.sql").write_text("select 1")
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    clean = paths.code_version()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "notes.txt").write_text("no code")
    assert paths.code_version() == clean
    (models / "b.sql").write_text("select 2")
    assert paths.code_version() == f"{clean}+"
    git("add", ".")
    assert paths.code_version() == f"{clean}+"


def test_a_relative_target_path_is_one_folder_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """dbt takes it as one inside of its project, wherever it is called."""
    monkeypatch.setenv("DBT_TARGET_PATH", "elsewhere/target")
    assert steps.target() == steps.DBT_PROJECT / "elsewhere" / "target"
    assert manifest_path() == steps.target() / "manifest.json"
    monkeypatch.delenv("DBT_TARGET_PATH")
    assert steps.target() == steps.DBT_PROJECT / "target"


def test_a_vector_of_what_is_no_user_id_is_refused() -> None:
    with pytest.raises(StepError, match=r"'\.\.' is no user id: expected"):
        steps.vector("..")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(TypeError), steps.told_as("build", "make build"):
        raise TypeError("no command repairs this")


def test_every_cadence_that_dbt_knows_can_be_asked_for() -> None:
    start_build = paths.DBT_PROJECT / "macros" / "build" / "start_build.sql"
    (known,) = re.findall(r"set known = \[(.*?)\]", start_build.read_text())
    cadences = re.findall(r"'(\w+)'", known)
    assert "hour" in cadences
    for cadence in cadences:
        assert parser().parse_args(["build", "--cadence", cadence]).cadence == cadence
