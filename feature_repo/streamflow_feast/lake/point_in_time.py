"""Point-in-time joins over the lake's versions, as Spark's SQL; see offline/point_in_time.py.

Spark has no index to descend. Of the versions known at K, each (keys, as_of) keeps its newest, and
those not retracted hold from their as_of until the next one's: an interval, so that one join by the
keys gives each row of the frame the one row that it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from streamflow_feast.dbt.types import CUT
from streamflow_feast.offline.point_in_time import INSTANT, ROW, Bounds, View

FRAME = "streamflow_entity_frame"  # a temporary view of the session


def quoted(names: Sequence[str], table: str = "") -> str:
    """Columns for a select list."""
    return ", ".join(f"{table}.`{name}`" if table else f"`{name}`" for name in names)


def instant(moment: datetime) -> str:
    """An instant as Spark writes one; sessions are in UTC."""
    return f"timestamp '{moment.isoformat()}'"


def effective(view: View, known_at: datetime | None) -> str:
    """Query of the newest version of every (keys, as_of), without the retracted ones."""
    known = f"`{view.created}` <= {instant(known_at)}" if known_at else "true"
    pair = quoted([*view.keys, view.timestamp])
    return (
        f"select * from (select *, row_number() over (partition by {pair} order by"
        f" `{view.created}` desc) as version_place from {view.schema}.{view.table} where {known})"
        " as versions where version_place = 1 and not is_retracted"
    )


def join(
    views: Sequence[View],
    frame_columns: Mapping[str, str],
    instants: str,
    kept: Sequence[str],
    bounds: Bounds,
) -> str:
    """Query of the frame's `kept` columns and the features of every view.

    `frame_columns` are join key -> column of FRAME, and `instants` its column of instants.
    """
    selected = [quoted(kept, "e")] if kept else []
    selected += [
        f"{_cut(view, column, f'v{n}.`{column}`')} as `{name}`"
        for n, view in enumerate(views)
        for column, name in view.features.items()
    ]
    joins = [
        f"left join ({_intervals(view, bounds, frame_columns, instants)}) as v{n} on "
        + " and ".join(_conditions(view, n, frame_columns, instants, bounds))
        for n, view in enumerate(views)
    ]
    return f"select {', '.join(selected)} from {FRAME} as e {' '.join(joins)}"


def _intervals(view: View, bounds: Bounds, frame_columns: Mapping[str, str], instants: str) -> str:
    """Rows of a view with the as_of at which the next one takes their place."""
    columns = quoted([*view.keys, view.timestamp, *view.features])
    if bounds.created_by_instant:
        return _as_created(view, bounds, frame_columns, instants)
    after = (
        f"lead(`{view.timestamp}`) over (partition by {quoted(list(view.keys))}"
        f" order by `{view.timestamp}`) as next_as_of"
    )
    return f"select {columns}, {after} from ({effective(view, bounds.known_at)}) as effective"


def _as_created(view: View, bounds: Bounds, frame_columns: Mapping[str, str], instants: str) -> str:
    """What a row's own instant already knew: no interval is right for all, so each (keys, instant)
    of the frame is looked up."""
    keys = quoted(list(view.keys), "v")
    asked = ", ".join(f"`{frame_columns[key]}` as `{c}`" for c, key in view.keys.items())
    same = " and ".join(f"v.`{c}` = f.`{c}`" for c in view.keys)
    known = f" and v.`{view.created}` <= {instant(bounds.known_at)}" if bounds.known_at else ""
    return (
        f"select {quoted([*view.keys, view.timestamp, *view.features])}, frame_instant from ("
        f"select *, row_number() over (partition by {quoted(list(view.keys))}, frame_instant"
        f" order by `{view.timestamp}` desc) as row_place from ("
        f"select {keys}, v.`{view.timestamp}`, v.is_retracted, {quoted(list(view.features), 'v')},"
        f" f.frame_instant, row_number() over (partition by {keys}, f.frame_instant,"
        f" v.`{view.timestamp}` order by v.`{view.created}` desc) as version_place"
        f" from {view.schema}.{view.table} as v"
        f" join (select distinct {asked}, `{instants}` as frame_instant from {FRAME}) as f"
        f" on {same} and v.`{view.timestamp}` <= f.frame_instant"
        f" and v.`{view.created}` <= f.frame_instant{known}"
        ") as known where version_place = 1 and not is_retracted) as placed where row_place = 1"
    )


def _conditions(
    view: View, n: int, frame_columns: Mapping[str, str], instants: str, bounds: Bounds
) -> list[str]:
    at = f"e.`{instants}`"
    since = f"v{n}.`{view.timestamp}`"
    found = [f"v{n}.`{column}` = e.`{frame_columns[key]}`" for column, key in view.keys.items()]
    if bounds.created_by_instant:
        found.append(f"v{n}.frame_instant = {at}")
    else:
        found += [f"{since} <= {at}", f"(v{n}.next_as_of is null or {at} < v{n}.next_as_of)"]
    if view.ttl:
        microseconds = view.ttl // timedelta(microseconds=1)
        found.append(f"{since} >= {at} - make_dt_interval(0, 0, 0, {microseconds / 1_000_000:.6f})")
    if bounds.not_before:
        found.append(f"{since} >= {instant(bounds.not_before)}")
    return found


def between(views: Sequence[View], start: datetime, end: datetime, bounds: Bounds) -> str:
    """Query of (event_timestamp, keys) of everything between two instants, of any of the views."""
    return " union ".join(
        f"select `{view.timestamp}` as {INSTANT}, "
        + ", ".join(f"`{column}` as `{key}`" for column, key in sorted(view.keys.items()))
        + f" from ({effective(view, bounds.known_at)}) as effective where `{view.timestamp}`"
        f" between {instant(start)} and {instant(end)}"
        for view in views
    )


def _cut(view: View, column: str, value: str) -> str:
    """A feature as Feast has it."""
    return CUT.get(view.types.get(column, ""), "{0}").format(value)


__all__ = ["FRAME", "ROW", "between", "effective", "instant", "join", "quoted"]
