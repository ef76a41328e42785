# `app` is the image of the pipeline and the API, `orchestrator` adds Dagster to it;
# docker-compose.yml says which command runs.
FROM python:3.12-slim AS app

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /streamflow

COPY requirements.lock .
RUN pip install --require-hashes --no-deps -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY data data
COPY dbt_project dbt_project
COPY feature_repo feature_repo
COPY serving serving
COPY orchestration orchestration
RUN pip install --no-deps --no-build-isolation --editable . \
    && useradd --create-home streamflow \
    && mkdir -p data/drops data/processed dbt_project/target dbt_project/logs logs .state \
    && chown -R streamflow data/drops data/processed dbt_project logs .state
USER streamflow

CMD ["python", "-m", "serving"]

FROM app AS orchestrator
USER root
COPY requirements-dev.lock .
RUN pip install --require-hashes --no-deps -r requirements-dev.lock \
    && mkdir -p /streamflow/dagster \
    && cp orchestration/dagster.compose.yaml dagster/dagster.yaml \
    && chown -R streamflow dagster
USER streamflow
ENV DAGSTER_HOME=/streamflow/dagster DAGSTER_DISABLE_TELEMETRY=1
CMD ["python", "-m", "orchestration.dagster_service", "webserver"]
