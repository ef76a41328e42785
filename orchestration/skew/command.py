"""Was what was served what was published? Replays logged answers against published versions.

The API logs a sample of its answers (STREAMFLOW_API_LOG_FEATURES=0.01). Each one says which
version of each view it was made from; that version is read again, on-demand features are computed
again, and every value is compared with the one that went out. One difference fails.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from feast.feature_logging import LOG_TIMESTAMP_FIELD

from data.database import Database
from data.errors import command
from data.paths import FEATURE_LOGS
from orchestration import steps
from orchestration.skew.published import (
    Answer,
    instant,
    published_keys,
    published_versions,
    pushed_answers,
    seconds_behind,
)
from serving.answers import encode
from serving.catalogue import Catalogue, Feature, Service, View, read_catalogue
from serving.settings import Settings
from streamflow_feast import feature_logs
from streamflow_feast.dbt.types import CUT
from streamflow_feast.feature_logs import HASHED, PROVENANCE, SERVED, Pseudonyms
from streamflow_feast.kinds import register_json

NAMED = 10  # differences that an error names


@dataclass
class Skew:
    """What a replay found. Counts are values, except `answers`; the lists are in seconds.

    pushed      of a row that was pushed: there is nothing published to compare with
    unknown     of an entity that had no row: they were null
    gone        of an entity, feature or service that is no longer published
    ages        of each answer and view: from its as_of to the answer
    behind      how long a newer version of the entity had been published by then; 0: none
    """

    answers: int = 0
    values: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)

    def note(self, outcome: str, difference: str = "") -> None:
        self.values[outcome] += 1
        if difference and len(self.differences) < NAMED:
            self.differences.append(difference)

    def __str__(self) -> str:
        counts = [f"{self.values['equal']:,} values equal, {self.values['different']:,} differ"]
        more = {
            "pushed": "pushed, with nothing to compare with",
            "unknown": "of entities without a row",
            "gone": "of entities or features that are no longer published",
        }
        counts += [f"{self.values[k]:,} {words}" for k, words in more.items() if self.values[k]]
        lines = [f"  {self.answers:,} answers: {'; '.join(counts)}"]
        if self.ages:
            lines.append(
                f"  as_of of the values: {_days(self.ages, 50)} old at the median, "
                f"{_days(self.ages, 99)} at p99"
            )
            lines.append(
                f"  behind what was published by then: {_percentile(self.behind, 50):.1f} s at the "
                f"median, {_percentile(self.behind, 99):.1f} s at p99"
            )
        return "\n".join(lines)


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent, method="higher"))


def _days(values: Sequence[float], percent: float) -> str:
    seconds = _percentile(values, percent)
    return f"{seconds / 86400:,.1f} days" if seconds >= 86400 else f"{seconds:,.0f} s"


def skew(
    since: datetime,
    folder: Path = FEATURE_LOGS,
    salt: str = "",
    database: Database | None = None,
) -> Skew:
    """Replay every answer logged from an instant on.

    Raises:
        StepError: a value differs, or nothing is logged.
    """
    found = Skew()
    repair = "make skew SINCE=<date>"
    with steps.told_as("skew", repair), (database or Database()).connect() as connection:
        register_json(connection.adapters)
        catalogue = _catalogue(connection)
        for name in feature_logs.services(folder):
            for table in feature_logs.read(folder, name, since):
                if table.num_rows:
                    _replay(connection, catalogue, name, table, folder, salt, found)
    if not found.answers:
        what = f"no answer since {since.isoformat()} is logged in {folder}"
        raise steps.StepError(
            "skew", what, "STREAMFLOW_API_LOG_FEATURES=0.01 make serve, and ask it something"
        )
    if found.differences:
        lines = "; ".join(found.differences)
        what = f"what was served is not what was published\n{found}\n  The first: {lines}"
        raise steps.StepError("skew", what, "make audit")
    return found


def _catalogue(connection: psycopg.Connection) -> Catalogue:
    row = connection.execute("select version, blob from online.registry limit 1").fetchone()
    if row is None:
        raise steps.StepError("skew", "there is no feature registry yet", "make apply")
    return read_catalogue(bytes(row[1]), Settings().project, row[0])


def _replay(
    connection: psycopg.Connection,
    catalogue: Catalogue,
    name: str,
    table: pa.Table,
    folder: Path,
    salt: str,
    found: Skew,
) -> None:
    service = catalogue.services.get(name)
    found.answers += table.num_rows
    rows = table.to_pylist()
    if service is None:
        for row in rows:
            found.values["gone"] += len(json.loads(row[SERVED]))
        return
    answers = list(_answers(connection, service, rows, folder, salt))
    versions: dict[str, dict[int, Mapping[str, Any]]] = {}
    pushed: dict[str, set[int]] = {}
    for view in service.views:
        asked = [a for a in answers if a.views.get(view.shown, {}).get("as_of")]
        found.ages += [
            (a.at - instant(a.views[view.shown]["as_of"])).total_seconds() for a in asked
        ]
        found.behind += seconds_behind(connection, service, view, asked)
        versions[view.shown] = published_versions(connection, service, view, asked)
        pushed[view.shown] = pushed_answers(connection, service, view, asked)
    if not any(answer.keys for answer in answers) and any(row[HASHED] for row in rows):
        what = f"no hashed key of {name} in {folder} is one of a published entity"
        raise steps.StepError("skew", what, "STREAMFLOW_API_LOG_SALT=<that of the API> make skew")
    for answer in answers:
        _compare(service, answer, versions, pushed, found)


def _answers(
    connection: psycopg.Connection,
    service: Service,
    rows: Iterable[Mapping[str, Any]],
    folder: Path,
    salt: str,
) -> Iterator[Answer]:
    names: dict[str, dict[str, Any]] = {}
    if any(row[HASHED] for row in rows):
        pseudonyms = Pseudonyms.in_folder(folder, salt, make=False)
        names = {
            key: {pseudonyms.of(value): value for value in published_keys(connection, service, key)}
            for key in service.keys
        }
    for number, row in enumerate(rows):
        keys: dict[str, Any] | None = {key: row[key] for key in service.keys}
        who = ", ".join(f"{row[key]}"[: 12 if row[HASHED] else None] for key in service.keys)
        if row[HASHED]:
            known = {key: names[key].get(row[key]) for key in service.keys}
            keys = None if None in known.values() else known
        yield Answer(
            number,
            row[LOG_TIMESTAMP_FIELD],
            who,
            keys,
            json.loads(row[PROVENANCE]),
            json.loads(row[SERVED], parse_float=Decimal),
            row,
        )


def _compare(
    service: Service,
    answer: Answer,
    versions: Mapping[str, Mapping[int, Mapping[str, Any]]],
    pushed: Mapping[str, set[int]],
    found: Skew,
) -> None:
    inputs: dict[str, Any] = {}
    uncomparable = ""
    for view in service.views:
        clocks = answer.views.get(view.shown)
        version = versions[view.shown].get(answer.number)
        state = _state(view, clocks, answer.number in pushed[view.shown], version)
        if state == "missing" and answer.keys is None:
            state = "gone"
        for feature in view.features:
            value = _of(version, feature) if version and state == "published" else None
            inputs[f"{view.shown}:{feature.column}"] = value
            name = f"{view.shown}__{feature.column}"
            if feature.hidden or name not in answer.served:
                continue
            if state in ("pushed", "gone"):
                found.note(state)
            elif version is not None and feature.column not in version:
                found.note("gone")
            elif state == "missing":
                found.note("different", _told(answer, name, "no such version is published", clocks))
            else:
                expected = _as_answered(value, feature.kind)
                _equal(answer, name, expected, clocks, found, empty=state == "unknown")
        if state in ("pushed", "gone", "missing"):
            uncomparable = "gone" if state == "missing" else state
    if service.on_demand is None:
        return
    request = {name: answer.logged.get(name) for name in service.request}
    computed = {} if uncomparable else service.on_demand.compute([inputs], [request])[0]
    for shown, name in service.computed:
        if f"{shown}__{name}" not in answer.served:
            continue
        if uncomparable:
            found.note(uncomparable)
        else:
            _equal(answer, f"{shown}__{name}", _as_answered(computed[name]), None, found)


def _of(version: Mapping[str, Any], feature: Feature) -> Any:
    """A feature's value in a version, as Feast and the online tables have it."""
    value = version.get(feature.column)
    return value.replace(microsecond=0) if value is not None and feature.kind in CUT else value


def _state(
    view: View,
    clocks: Mapping[str, Any] | None,
    pushed: bool,
    version: Mapping[str, Any] | None,
) -> str:
    """What of a view an answer is to hold: what is published, what was pushed, nulls (unknown and
    expired), or something that cannot be (missing)."""
    if clocks is None or clocks["as_of"] is None:
        return "unknown"
    if pushed:
        return "pushed"
    if clocks["status"] == "older_than_ttl":
        return "expired" if view.ttl_seconds else "missing"
    return "published" if version is not None else "missing"


def _equal(
    answer: Answer,
    name: str,
    expected: Any,
    clocks: Mapping[str, Any] | None,
    found: Skew,
    *,
    empty: bool = False,
) -> None:
    served = answer.served[name]
    if type(served) is type(expected) and served == expected:
        found.note("unknown" if empty else "equal")
    else:
        found.note("different", _told(answer, name, f"published {_short(expected)}", clocks))


def _as_answered(value: Any, kind: str = "") -> Any:
    """A published value in the form of the answers' JSON."""
    if kind == "jsonb" and value is not None:
        return json.loads(value, parse_float=Decimal)
    try:
        return json.loads(encode(value), parse_float=Decimal)
    except ValueError:  # what JSON has no number for is answered as null
        return None


def _told(answer: Answer, name: str, what: str, clocks: Mapping[str, Any] | None) -> str:
    of = f" of as_of {clocks['as_of']}, known_at {clocks['known_at']}" if clocks else ""
    served = _short(answer.served[name])
    return f"{name} of {answer.who}{of}: served {served} at {answer.at.isoformat()}, {what}"


def _short(value: Any) -> str:
    return f"{value}"[:80] if value is not None else "null"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m orchestration skew", description=__doc__)
    parser.add_argument(
        "--since", type=_since, default="1970-01-01", help="a date or instant (UTC); default: all"
    )
    options = parser.parse_args(arguments)
    settings = Settings()
    steps.say(str(skew(options.since, settings.log_folder, settings.log_salt.get_secret_value())))
    return 0


def _since(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date or instant; write 2024-01-31 or 2024-01-31T12:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
