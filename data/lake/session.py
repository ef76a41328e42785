"""The Spark session of this process: dbt's, if it has built here, or one of our own."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from data.paths import lake

MISSING = "Spark is not installed here: make spark"


class NoSparkError(RuntimeError):
    """There is no Spark to ask; says what to do."""


def session() -> Any:
    """A pyspark.sql.SparkSession over the lake of the settings, in UTC.

    Raises:
        NoSparkError: the extra is not installed.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise NoSparkError(MISSING) from None
    # What it raises is told by whoever catches it; it would be logged as ten kilobytes of JSON.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    os.environ.setdefault("STREAMFLOW_LAKE", str(lake()))
    builder = SparkSession.builder.enableHiveSupport()
    for name, value in {
        "spark.master": os.environ.get("STREAMFLOW_SPARK_MASTER", "local[2]"),
        "spark.sql.shuffle.partitions": os.environ.get("STREAMFLOW_SPARK_PARTITIONS", "4"),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
    }.items():
        builder = builder.config(name, value)
    found = builder.getOrCreate()
    if "PYSPARK_PYTHON" not in os.environ:  # dbt, which may have begun it, runs no Python there
        found.sparkContext.pythonExec = sys.executable
    return found
