# ruff: noqa: E501
"""A raw table is one entry of `_sources.yml`: nothing else has to be told of it.

If one of these fails, people who bring a table of their own edit the loader, or a slip in their
declaration is found by Postgres, by dbt, or by nobody.
"""

from __future__ import annotations

import ast
import json
import re
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract import DeclarationError, Table, declared, read
from data.database import Database
from data.load.check import DropError
from data.load.load import load
from data.postgres.setup import set_up
from data.sample.rows import DRAWN
from tests.data.drops import ROOT

DAY = "2024-03-31"
HEAD = """
sources:
  - name: raw
    tables:
      - name: loads
      - name: users
        config: {meta: {grain: state, key: [user_id], since: signup_date}}
        columns:
          - {name: user_id, data_type: text, config: {meta: {entity: user}}}
          - {name: signup_date, data_type: date}
"""
READINGS = """
      - name: readings
        description: What sensors measured.
        config: {meta: {grain: event, key: [sensor, number], event_time: read_at}}
        columns:
          - {name: sensor, data_type: uuid, config: {meta: {entity: sensor}}}
          - {name: number, data_type: bigint}
          - {name: read_at, data_type: timestamptz, config: {meta: {unit: UTC}}}
          - {name: owner, data_type: text, config: {meta: {entity: user, nullable: true}}}
          - {name: celsius, data_type: double precision, config: {meta: {nullable: true}}}
          - {name: price, data_type: "numeric(6,2)", config: {meta: {nullable: true}}}
          - {name: is_new, data_type: boolean, config: {meta: {nullable: true}}}
          - {name: made_on, data_type: date, config: {meta: {nullable: true}}}
          - {name: state, data_type: text, config: {meta: {nullable: true, values: ["on", "off (why?)"]}}}
          - {name: about, data_type: jsonb, config: {meta: {nullable: true}}}
          - {name: tags, data_type: "text[]", config: {meta: {nullable: true}}}
          - {name: counts, data_type: "bigint[]", config: {meta: {nullable: true}}}
          - {name: embedding, data_type: "double precision[]", config: {meta: {nullable: true}}}
          - {name: flags, data_type: "boolean[]", config: {meta: {nullable: true}}}
"""
SENSOR = "123e4567-e89b-12d3-a456-426614174000"
COLUMNS = "sensor, number, read_at, owner, celsius, price, is_new, made_on, state, about, tags, counts, embedding, flags"


@pytest.fixture
def tables(database: Database) -> tuple[Table, ...]:
    tables = read(HEAD + READINGS)
    set_up(database, tables)
    return tables


def put(tmp_path: Path, day: str = DAY, **files: str) -> Path:
    folder = tmp_path / "drops" / day
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.csv").write_text(content)
    return folder


def rows(settings: Database, query: str) -> list[tuple]:
    with settings.connect() as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def columns_with(*added: str) -> str:
    return "\n          ".join([HEAD.rstrip(), *added]) + "\n"


def test_the_shipped_declaration_is_read_and_every_meaning_and_grain_is_there() -> None:
    for table in declared():
        assert table.meaning, table.name
        assert all(column.meaning for column in table.columns), table.name


def test_nothing_but_the_sample_names_a_table() -> None:
    """Else a table that is renamed, left out or added needs an edit of the loader."""
    names = re.compile(rf"(?<!--)\b(?:{'|'.join(DRAWN)})\b")
    for path in (ROOT / "data").rglob("*.py"):
        if "sample" not in path.relative_to(ROOT).parts:
            tree = ast.parse(path.read_text())
            prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
            texts = [
                n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in prose
            ]
            words = " ".join(str(text.value) for text in texts).replace("grant usage", "")
            assert not names.findall(words), path
    for path in (ROOT / "data").rglob("*.sql"):
        code = re.sub(r"--.*|grant usage", "", path.read_text())
        assert not names.findall(code), path


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("- {name: x, data_type: money}", "table users: column x: data_type is 'money'; expected one of text, bigint"),
        ("- {name: x}", "column x: data_type is None; expected one of"),
        ('- {name: x, data_type: "numeric(5,9)"}', "data_type is 'numeric(5,9)'"),
        ("- {name: x, data_type: text, config: {meta: {unsigned: true}}}", "expected a number for `unsigned`"),
        ("- {name: signup_date, data_type: date}", "table users: column signup_date is declared twice"),
        ("- {name: load_id, data_type: bigint}", "column load_id: the name is taken"),
        ("- {name: Bad Name, data_type: text}", "a column is named 'Bad Name'; expected small letters"),
        ("- {name: 7, data_type: text}", "a column is named 7"),
        ("- {name: x, data_type: text, config: {meta: {nulable: true}}}", "config.meta has 'nulable'; expected any of entity, nullable"),
        ("- {name: x, data_type: text, config: {meta: {nullable: maybe}}}", "nullable is 'maybe'; expected true or false"),
        ("- {name: x, data_type: text, config: {meta: {values: [yes, no]}}}", "values is [True, False]; expected a list of texts"),
        ("- {name: x, data_type: text, config: {meta: {values: [a, a]}}}", "one of them is there twice"),
        ("- {name: x, data_type: date, config: {meta: {values: [a]}}}", "expected texts of a text column"),
        ("- {name: x, data_type: date, config: {meta: {entity: day}}}", "a join key is a date; expected text, bigint or uuid"),
        ("- {name: x, data_type: date, config: {meta: {not_before: signup_date}}}", "not_before is for instants"),
        ("- {name: x, data_type: timestamptz, config: {meta: {not_before: y}}}", "not_before is 'y'; expected another column"),
        ("- {name: x, data_type: text, config: {meta: {unit: 5}}}", "unit is 5; expected a text"),
        ("- x", "'x'; expected a column with name"),
    ],
)  # fmt: skip
def test_a_column_that_makes_no_sense_is_refused(entry: str, expected: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(expected)) as refused:
        read(columns_with(entry), "_sources.yml")
    assert str(refused.value).startswith("_sources.yml: table users")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("grain: event", "grain: events"), "table readings: config.meta.grain is 'events'; expected one of state, event, aggregate"),
        (("key: [sensor, number]", "key: []"), "config.meta.key is missing"),
        (("key: [sensor, number]", "key: [serial]"), "key has 'serial'; expected any of sensor, number"),
        (("key: [sensor, number]", "key: [owner]"), "column owner: is of the key, so that it cannot be nullable"),
        ((", event_time: read_at", ""), "config.meta.event_time is missing"),
        (("event_time: read_at", "event_time: made_on"), "event_time is 'made_on'; expected a column that is a instant (read_at)"),
        (("grain: event", "grain: state"), "event_time is 'read_at'; expected it for the grain event alone"),
        (("name: readings", "name: users"), "table users is declared twice; leave one"),
        (("config: {meta: {grain", "config: {metta: {grain"), "config.meta.grain is None"),
        (("sources:", "source:"), "expected one source named 'raw'"),
        (("sources:", "sources: ["), "is no YAML"),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_sense_is_refused(change: tuple[str, str], expected: str) -> None:
    text = HEAD + READINGS
    assert change[0] in text
    with pytest.raises(DeclarationError, match=re.escape(expected)):
        read(text.replace(*change), "_sources.yml")


def test_a_declaration_that_is_not_there_is_told_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_PROJECT_DIR", str(tmp_path))
    with pytest.raises(DeclarationError, match=f"{tmp_path}.*_sources.yml cannot be read"):
        declared()


def csv_of(*lines: dict[str, str]) -> str:
    names = COLUMNS.split(", ")
    quoted = [
        ",".join('"' + line.get(n, "").replace('"', '""') + '"' for n in names) for line in lines
    ]
    return "\n".join([",".join(names), *quoted]) + "\n"


FULL = {
    "sensor": SENSOR.upper(),
    "number": "9223372036854775807",
    "read_at": "2024-03-01T10:00:00.123456Z",
    "owner": "a",
    "celsius": "-0.1",
    "price": "-9999.99",
    "is_new": "TRUE",
    "made_on": "2020-02-29",
    "state": "off (why?)",
    "about": '{"a": [1, 2.50, "\\u00e9"], "b": null}',
    "tags": '["a, b", "say \\"hi\\"", "back\\\\slash", "", "{x}", "NULL"]',
    "counts": "[-9223372036854775808, 0]",
    "embedding": json.dumps([0.1 * n for n in range(384)]),
    "flags": "[true, false]",
}
LEAST = {"sensor": SENSOR, "number": "1", "read_at": "2024-03-01 10:00"}
VALUES = (
    UUID(SENSOR),
    2**63 - 1,
    datetime(2024, 3, 1, 10, 0, 0, 123456, timezone.utc),
    "a",
    -0.1,
    Decimal("-9999.99"),
    True,
    date(2020, 2, 29),
    "off (why?)",
    {"a": [1, 2.5, "é"], "b": None},
    ["a, b", 'say "hi"', "back\\slash", "", "{x}", "NULL"],
    [-(2**63), 0],
    [0.1 * n for n in range(384)],
    [True, False],
)  # fmt: skip


def test_every_type_arrives_exactly_from_csv_and_from_parquet(
    database: Database, tables: tuple[Table, ...], tmp_path: Path
) -> None:
    folder = put(
        tmp_path, users="user_id,signup_date\na,2024-01-01\n", readings=csv_of(FULL, LEAST)
    )
    assert load(folder, database, tables=tables).tables["readings"].added == 2
    found = rows(database, f"select {COLUMNS} from raw.readings order by number desc")
    assert found[0] == VALUES
    assert found[1][3:] == (None,) * 11
    names = COLUMNS.split(", ")
    typed = {name: [value] for name, value in zip(names, VALUES, strict=True)}
    typed |= {"sensor": [SENSOR], "about": [FULL["about"]]}
    (folder / "readings.csv").unlink()
    pq.write_table(pa.table(typed), folder / "readings.parquet")
    again = load(folder, database, tables=tables).tables["readings"]
    assert (again.added, again.repeated, again.retracted) == (0, 1, 1)


def test_arrays_of_another_form_are_mapped(
    database: Database, tables: tuple[Table, ...], tmp_path: Path
) -> None:
    bars = FULL | {
        "tags": "Action|Sci-Fi, old",
        "counts": "1 | 2",
        "embedding": "[0.5]",
        "flags": "true|maybe",
    }
    users = "user_id,signup_date\na,2024-01-01\n"
    folder = put(tmp_path, users=users, readings=csv_of(bars))
    (folder / "mapping.yml").write_text('list_separator: "|"\n')
    with pytest.raises(
        DropError, match=r"line 2, flags: '\[true,maybe\]'; expected a JSON array of true"
    ):
        load(folder, database, tables=tables)
    put(tmp_path, readings=csv_of(bars | {"flags": "true|false"}))
    load(folder, database, tables=tables)
    assert rows(database, "select tags, counts, embedding, flags from raw.readings") == [
        (["Action", "Sci-Fi, old"], [1, 2], [0.5], [True, False])
    ]


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("sensor", "123", "expected a UUID, such as"),
        ("number", "9223372036854775808", "expected a whole number between -9223372036854775808 and"),
        ("celsius", "warm", "expected a number"),
        ("price", "12345.00", "expected a number with at most 4 digits before the point and 2 after it"),
        ("state", "off", "expected one of on, off (why?)"),
        ("about", "{'a': 1}", "expected JSON"),
        ("about", '"\\u0000"', "expected JSON"),
        ("about", "NaN", "expected JSON"),
        ("tags", "[1]", "expected a JSON array of texts"),
        ("tags", '["a", null]', "expected a JSON array of texts"),
        ("tags", "{a,b}", "expected a JSON array of texts"),
        ("counts", "[1.5]", "expected a JSON array of whole numbers"),
        ("counts", "[9223372036854775808]", "expected a JSON array of whole numbers"),
        ("embedding", "[1e999]", "expected a JSON array of numbers"),
        ("embedding", "[true]", "expected a JSON array of numbers"),
        ("embedding", "[[1]]", "expected a JSON array of numbers"),
        ("flags", "[1]", "expected a JSON array of true and false"),
        ("owner", "nobody", "'nobody' is not known; expected a user of users.csv"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_any_type_is_told_with_its_place(
    database: Database,
    tables: tuple[Table, ...],
    tmp_path: Path,
    column: str,
    cell: str,
    expected: str,
) -> None:
    folder = put(
        tmp_path,
        users="user_id,signup_date\na,2024-01-01\n",
        readings=csv_of(FULL, LEAST | {column: cell}),
    )
    with pytest.raises(DropError) as refused:
        load(folder, database, tables=tables)
    assert f"readings.csv: 1 error\n  line 3, {column}: " in str(refused.value)
    assert expected in str(refused.value)
    assert rows(database, "select count(*) from raw.readings") == [(0,)]


def test_a_key_of_several_columns_is_one_key(
    database: Database, tables: tuple[Table, ...], tmp_path: Path
) -> None:
    """Events and states alike: repeated, corrected, taken back, stated by a newer drop."""
    other = SENSOR.replace("1", "2")
    one, two, three = LEAST, LEAST | {"number": "2"}, LEAST | {"sensor": other}
    users = "user_id,signup_date\na,2024-01-01\n"
    load(put(tmp_path, users=users, readings=csv_of(one, two, three, one)), database, tables=tables)
    warm = two | {"celsius": "20"}
    late = put(tmp_path, "2024-04-30", users=users, readings=csv_of(warm, three))
    assert load(late, database, tables=tables).tables["readings"].added == 2
    effective = "select number, celsius, as_of::date::text from raw.readings where superseded_by is null order by 1, sensor"
    assert rows(database, effective) == [
        (1, None, DAY),
        (1, None, "2024-04-30"),
        (2, 20.0, "2024-04-30"),
    ]
    put(tmp_path, "2024-04-30", readings=csv_of(three))
    assert load(late, database, tables=tables).tables["readings"].retracted == 1
    assert rows(database, effective)[2] == (2, None, DAY)
    put(tmp_path, "2024-04-30", readings=csv_of(warm, two))
    with pytest.raises(
        DropError, match=f"line 3, sensor, number: '{SENSOR}, 2' has other values on line 2"
    ):
        load(late, database, tables=tables)


def test_two_users_of_one_event_are_both_known(database: Database, tmp_path: Path) -> None:
    text = (
        HEAD
        + """
      - name: gifts
        config: {meta: {grain: event, key: [id], event_time: given_at}}
        columns:
          - {name: id, data_type: bigint}
          - {name: given_at, data_type: timestamptz}
          - {name: giver, data_type: text, config: {meta: {entity: user}}}
          - {name: friend, data_type: text, config: {meta: {entity: user, nullable: true}}}
"""
    )
    tables = read(text)
    set_up(database, tables)
    users = "user_id,signup_date\na,2024-01-01\nb,2024-01-01\n"
    gifts = "id,given_at,giver,friend\n1,2024-03-01T00:00Z,a,\n2,2024-03-01T00:00Z,a,zoe\n"
    folder = put(tmp_path, users=users, gifts=gifts)
    with pytest.raises(
        DropError, match=r"gifts.csv: 1 error\n  line 3, friend: 'zoe' is not known"
    ):
        load(folder, database, tables=tables)
    put(tmp_path, gifts=gifts.replace("zoe", "b"))
    load(folder, database, tables=tables)
    put(tmp_path, users=users.replace("b,2024-01-01\n", ""), gifts=gifts.replace(",zoe", ","))
    load(folder, database, tables=tables)
    indexes = {
        name
        for (name,) in rows(database, "select indexname from pg_indexes where tablename = 'gifts'")
    }
    assert indexes == {
        f"gifts_{part}" for part in ("key", "load", "superseded", "as_of", "user", "friend")
    }
