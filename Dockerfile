# One image for the pipeline and the API; docker-compose.yml says which command runs.
FROM python:3.12-slim

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
