"""dbt, feast and uvicorn, typed as their own manuals say: who knows them needs nothing of ours."""

from __future__ import annotations

from pathlib import Path

from data.database import Database


def test_the_plain_commands_take_raw_drops_to_an_answer(
    database: Database, sample_drops: Path, shell, serving, get
) -> None:
    for drop in sorted(sample_drops.iterdir()):
        shell(f"python -m data load {drop}")

    assert "Published:" in shell("cd dbt_project && dbt build")
    shell(
        "cd feature_repo && feast apply"
        " && feast materialize-incremental $(date -u +%Y-%m-%dT%H:%M:%S)"
    )

    with database.connect() as connection:
        user, hours, as_of = connection.execute(
            "select user_id, watch_hours_30d, as_of from published.usage_features_latest"
            " where watch_hours_30d is not null order by as_of desc, user_id limit 1"
        ).fetchone()
    with serving("uvicorn serving.main:app --port {port}") as address:
        answer = get(f"{address}/features/{user}")
    assert answer["found"] is True
    assert answer["features"]["watch_hours_30d"] == hours
    assert answer["as_of"].startswith(f"{as_of:%Y-%m-%d}")  # years old, and online all the same


def test_dbt_docs_shows_the_way_from_raw_to_the_endpoint(
    sample: Database, shell, serving, get
) -> None:
    shell("cd dbt_project && dbt docs generate")
    where = "--project-dir dbt_project --profiles-dir dbt_project"
    command = f"dbt docs serve --no-browser --port {{port}} {where}"
    with serving(command, path="/index.html") as address:
        manifest = get(f"{address}/manifest.json")
    parents = manifest["parent_map"]
    seen, todo = set(), ["exposure.streamflow.features_api"]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += parents.get(node, [])
    assert {"source.streamflow.raw.usage", "model.streamflow.usage_features"} <= seen


def test_feasts_own_page_opens_on_the_project(sample: Database, serving, get) -> None:
    """With our registry, which Feast's page reads through its provider's store."""
    command = "sh -c 'cd feature_repo && exec feast ui --host 127.0.0.1 --port {port}'"
    with serving(command, path="/health") as address:
        views = get(f"{address}/api/v1/feature_views?project=streamflow")["featureViews"]
        services = get(f"{address}/api/v1/feature_services?project=streamflow")["featureServices"]
        [project] = get(f"{address}/projects-list.json")["projects"]
    assert {"usage_features", "watch_cost"} <= {view["spec"]["name"] for view in views}
    assert "churn_v1" in {service["spec"]["name"] for service in services}
    assert project["id"] == "streamflow"
