# ruff: noqa: E501
"""Files of other people's making: what a mapping says of them, and errors for the rest.

If one of these fails, people convert their exports by hand, or a value is taken for another.
"""

from __future__ import annotations

import gzip
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.database import Database
from data.load.check import DropError
from data.load.load import load
from tests.data.drops import USERS, everything

DAY = "2024-03-31"


def rows(settings: Database, table: str, columns: str) -> list[tuple[Any, ...]]:
    with settings.connect() as connection:
        query = f"select {columns} from raw.{table} where superseded_by is null order by 1"
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def put(folder: Path, **files: str | bytes) -> Path:
    """Files by name, in which `__` stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def refused(folder: Path, settings: Database) -> str:
    with pytest.raises(DropError) as error:
        load(folder, settings)
    return str(error.value)


def test_gzip_and_parquet_hold_what_csv_does(database: Database, drop, tmp_path: Path) -> None:
    load(drop("2024-02-29", users=USERS), database)
    lines = "session_id,user_id,started_at,device_id,watch_minutes,skips,rebuffer_events\n"
    lines += "s1,a,2024-03-01T10:00:00.123456Z,,10.5,3,\n"
    folder = put(tmp_path / DAY, usage__csv__gz=gzip.compress(lines.encode()))
    table = pa.table(
        {
            "payment_id": pa.array([9007199254740993, 1]),  # a double would lose the first
            "user_id": ["a", "b"],
            "attempted_at": pa.array(
                [datetime(2024, 3, 2, 1, 2, 3, 456789), datetime(2024, 3, 2)], pa.timestamp("us")
            ),
            "amount": pa.array([Decimal("-999999999.99"), Decimal("0.10")], pa.decimal128(12, 2)),
            "status": ["succeeded", "failed"],
        }
    )
    pq.write_table(table, folder / "payments.parquet")
    load(folder, database)
    assert rows(database, "usage", "session_id, started_at, device_id, watch_minutes, skips") == [
        ("s1", datetime(2024, 3, 1, 10, 0, 0, 123456, timezone.utc), None, Decimal("10.5000"), 3)
    ]
    found = rows(database, "payments", "payment_id, attempted_at, amount")
    assert [row[0] for row in found] == ["1", "9007199254740993"]
    assert found[1][1] == datetime(2024, 3, 2, 1, 2, 3, 456789, timezone.utc)
    assert found[1][2] == Decimal("-999999999.99")


MAPPING = """
separator: ";"
dates: {signup_date: DD/MM/YYYY, attempted_at: epoch_milliseconds, started_at: DD.MM.YYYY hh:mm}
time_zone: America/New_York
true: [yes, t, 1]
false: [no, f, 0]
empty: [NULL, n/a]
decimal: ","
thousands: "."
currency: "€"
files:
  users:
    file: people.csv
    columns: {user_id: Kunde, signup_date: Seit, user_is_senior: Senior, has_family: Partner}
    unknown_columns: ignore
  payments:
    columns: {user_id: Kunde, amount: Betrag, attempted_at: Wann}
    values: {status: {ok: succeeded, declined: failed}}
    make: {payment_id: "{Kunde}/{Wann}/{line}"}
"""
PEOPLE = """ KUNDE ;Seit; Senior;Partner;Shoe size
a ; 31/01/2024 ;YES;0;42
b;29/02/2024;NULL;t;43
"""
PAID = """Kunde;Wann;Betrag;status
a;1709287200000;€ 1.299,00;ok
b;1709287200123; -9,99 €;declined
"""
WATCHED = """session_id;user_id;started_at;watch_minutes
s;a;10.03.2024 01:30;12,5
t;a;10.03.2024 03:30;1
"""


def test_a_mapping_says_what_another_form_means(database: Database, tmp_path: Path) -> None:
    folder = put(
        tmp_path / DAY,
        mapping__yml=MAPPING,
        people__csv=PEOPLE,
        payments__csv=PAID,
        usage__csv=WATCHED,
    )
    result = load(folder, database)
    assert "people.csv: ignored 'Shoe size'" in str(result)
    assert rows(database, "users", "user_id, signup_date::text, user_is_senior, has_family") == [
        ("a", "2024-01-31", True, False),
        ("b", "2024-02-29", None, True),
    ]
    instant = datetime(2024, 3, 1, 10, tzinfo=timezone.utc)
    assert rows(database, "payments", "payment_id, user_id, attempted_at, amount, status") == [
        ("a/1709287200000/2", "a", instant, Decimal("1299.00"), "succeeded"),
        (
            "b/1709287200123/3",
            "b",
            instant.replace(microsecond=123000),
            Decimal("-9.99"),
            "failed",
        ),
    ]
    # New York changed to summer time between the two: at 2 o'clock, to UTC-4.
    assert rows(database, "usage", "session_id, started_at, watch_minutes") == [
        ("s", datetime(2024, 3, 10, 6, 30, tzinfo=timezone.utc), Decimal("12.5000")),
        ("t", datetime(2024, 3, 10, 7, 30, tzinfo=timezone.utc), Decimal("1.0000")),
    ]


def test_a_foreign_export_of_events_lists_its_users_too(database: Database, tmp_path: Path) -> None:
    """No header, Windows' letters, tabs, epoch seconds, two tables from one file, users repeated."""
    mapping = """
separator: "\\t"
encoding: cp1252
unknown_columns: ignore
dates: epoch_seconds
files:
  usage:
    file: log.tsv
    header: [uid, ts, place, mins]
    columns: {user_id: uid, started_at: ts, device_id: place, watch_minutes: mins}
    make: {session_id: "{uid}-{ts}-{line}"}
  users:
    file: log.tsv
    header: [uid, ts, place, mins]
    columns: {user_id: uid, signup_date: ts}
    repeats: first
"""
    lines = "zo\u00eb\t1709251200\tcaf\u00e9 \u201cx\u201d\t2.5\nb\t1709337600\t\t1\nzo\u00eb\t1709424000\t\t3\n"
    folder = put(tmp_path / DAY, mapping__yml=mapping, log__tsv=lines.encode("cp1252"))
    result = load(folder, database)
    assert result.tables["users"].added == 2
    assert rows(database, "users", "user_id, signup_date::text") == [
        ("b", "2024-03-02"),
        ("zoë", "2024-03-01"),
    ]
    assert rows(database, "usage", "session_id, device_id, watch_minutes::float") == [
        ("b-1709337600-2", None, 1.0),
        ("zoë-1709251200-1", "café “x”", 2.5),
        ("zoë-1709424000-3", None, 3.0),
    ]
    put(folder, mapping__yml=mapping.replace("repeats: first", "repeats: last"))
    load(folder, database)
    assert rows(database, "users", "signup_date::text") == [("2024-03-02",), ("2024-03-03",)]
    put(folder, mapping__yml=mapping.replace("repeats: first", ""))
    assert "log.tsv: 1 error\n  line 3, user_id: 'zoë' is already on line 1" in refused(
        folder, database
    )
    put(
        folder,
        mapping__yml=mapping,
        log__tsv=lines.encode("cp1252") + b"b\tnow\t\t1\nb\t1709337600\t\x81\t1\n",
    )
    said = refused(folder, database)
    assert "line 4, started_at ('ts'): 'now'; expected an instant as epoch seconds" in said
    assert "line 5, device_id ('place'): '\\x80' is not UTF-8" in said


def test_rows_of_a_kind_and_letters_that_look_like_quotes(
    database: Database, tmp_path: Path
) -> None:
    """A shop's log: purchases among views, a title in quotes, a column that only makes the id."""
    mapping = """
quotes: none
separator: ";"
dates: YYYY-MM-DD hh:mm:ss UTC
files:
  users: {file: log.csv, columns: {user_id: uid, signup_date: ts}, unknown_columns: ignore, repeats: first}
  payments:
    file: log.csv
    columns: {user_id: uid, attempted_at: ts, amount: price, status: kind}
    make: {payment_id: "{session}/{line}"}
    only: {Kind: [purchase, failed]}
    values: {status: {purchase: succeeded}}
    unknown_columns: ignore
"""
    lines = "ts;uid;session;kind;price;title\n"
    lines += '2024-03-01 10:00:00 UTC;a;x;view;;"Heroes" again\n'
    lines += '2024-03-01 10:00:01 UTC;b;y; purchase ;9.99;8" disc\n'
    lines += "2024-03-02 10:00:02 UTC;b;y;failed;5;\n"
    folder = put(tmp_path / DAY, mapping__yml=mapping, log__csv=lines)
    result = load(folder, database)
    assert "log.csv: 1 rows left out by `only`" in result.warnings
    assert result.tables["users"].added == 2
    assert rows(database, "payments", "payment_id, user_id, amount, status") == [
        ("y/3", "b", Decimal("9.99"), "succeeded"),
        ("y/4", "b", Decimal("5.00"), "failed"),
    ]
    strict = mapping.replace("unknown_columns: ignore\n", "").replace(
        ", unknown_columns: ignore", ""
    )
    put(folder, mapping__yml=strict.replace("  users:", "  labels: {}\n  users:"))
    said = refused(folder, database)
    assert "unknown column 'title'" in said
    assert said.count("unknown column 'session'") == 1, "payments' ids are made from it"
    put(folder, mapping__yml=mapping.replace("{Kind: [", "{sort: ["))
    assert "line 1, sort: `only` goes by it, and it is no column of the file" in refused(
        folder, database
    )
    put(folder, mapping__yml=mapping.replace("only: {Kind: [purchase, failed]}", "only: purchase"))
    assert "only: 'purchase'; expected for each of their columns the words" in refused(
        folder, database
    )


def test_a_file_in_utf_16_is_read_when_that_is_said(database: Database, tmp_path: Path) -> None:
    text = "user_id,signup_date\r\nzo\u00eb,2024-01-01\r\n"
    folder = put(tmp_path / DAY, users__csv=text.encode("utf-16"))
    assert "not UTF-8, but UTF-16; save the file as UTF-8, or say encoding: utf-16" in refused(
        folder, database
    )
    put(folder, mapping__yml="encoding: utf-16\n")
    load(folder, database)
    assert rows(database, "users", "user_id") == [("zoë",)]
    put(folder, users__csv=gzip.compress(text.encode("utf-16"))).joinpath("users.csv").rename(
        folder / "users.csv.gz"
    )
    assert load(folder, database).tables["users"].repeated == 1


@pytest.mark.parametrize(
    ("mapping", "amount", "expected"),
    [
        ('thousands: ","', "1,299.00", Decimal("1299.00")),
        ('thousands: ","', "1,00,299.5", Decimal("100299.50")),
        ('thousands: ","\ncurrency: "$"', "-$1,299", Decimal("-1299.00")),
        ('currency: "$"', "$9.99", Decimal("9.99")),
        ('currency: "EUR"', "9.99 EUR", Decimal("9.99")),
        ('sign: negated', "9.99", Decimal("-9.99")),
        ('sign: absolute', "-9.99", Decimal("9.99")),
        ('decimal: ","\nthousands: " "', "1 299,5", Decimal("1299.50")),
        ('thousands: ","', "9,99", None),  # 999 otherwise, a hundred times too much
        ('thousands: ","', "1,2999.00", None),
        ('thousands: "."\ndecimal: ","', "1.299,00.1", None),
        ('thousands: ","', "$9.99", None),
        ("sign: as_is", "1,299.00", None),
    ],
)  # fmt: skip
def test_amounts_mean_what_the_mapping_says_or_are_refused(
    database: Database, tmp_path: Path, mapping: str, amount: str, expected: Decimal | None
) -> None:
    folder = put(
        tmp_path / DAY,
        mapping__yml=f"{mapping}\n",
        users__csv="user_id,signup_date\na,2024-01-01\n",
        payments__csv=f'payment_id,user_id,attempted_at,amount,status\np,a,2024-03-01T00:00Z,"{amount}",failed\n',
    )
    if expected is None:
        assert f"payments.csv: 1 error\n  line 2, amount: '{amount}'" in refused(folder, database)
    else:
        load(folder, database)
        assert rows(database, "payments", "amount") == [(expected,)]


@pytest.mark.parametrize(
    ("form", "cell", "expected"),
    [
        ("epoch_seconds", "1709287200", 0),
        ("epoch_seconds", "1709287200.25", 250_000),
        ("epoch_milliseconds", "1709287200123", 123_000),
        ("epoch_microseconds", "1709287200123456", 123_456),
        ("YYYY-MM-DD hh:mm:ss UTC", "2024-03-01 10:00:00 UTC", 0),
        ("YYYY-MM-DD hh:mm:ss.SSS", "2024-03-01 10:00:00.5", 500_000),
        ("MM/DD/YYYY hh:mm AM", "03/01/2024 10:00 AM", 0),
        ("epoch_milliseconds", "1709287200", None),  # seconds: January 1970 otherwise
        ("epoch_microseconds", "1709287200123", None),
        ("epoch_seconds", "1709287200123", None),
        ("epoch_seconds", "yesterday", None),
    ],
)  # fmt: skip
def test_instants_mean_what_the_mapping_says_or_are_refused(
    database: Database, tmp_path: Path, form: str, cell: str, expected: int | None
) -> None:
    folder = put(
        tmp_path / DAY,
        mapping__yml=f"dates: {{started_at: '{form}'}}\n",
        users__csv="user_id,signup_date\na,2024-01-01\n",
        usage__csv=f"session_id,user_id,started_at,watch_minutes\ns,a,{cell},1\n",
    )
    if expected is None:
        assert (
            f"usage.csv: 1 error\n  line 2, started_at: '{cell}'; expected an instant"
            in refused(folder, database)
        )
    else:
        load(folder, database)
        instant = datetime(2024, 3, 1, 10, 0, 0, expected, timezone.utc)
        assert rows(database, "usage", "started_at") == [(instant,)]


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("user_is_senior", "yes", "true: [yes, t, 1] and false: [no, f, 0]"),
        ("signup_date", "31/01/2024", "dates: DD/MM/YYYY or MM/DD/YYYY"),
        ("signup_date", "1709287200", "dates: epoch_seconds"),
        ("has_family", "NULL", "empty: and the words that mean it"),
    ],
)
def test_an_error_tells_what_a_mapping_could_say(
    database: Database, tmp_path: Path, column: str, cell: str, said: str
) -> None:
    row = {"user_id": "a", "signup_date": "2024-01-01"} | {column: cell}
    folder = put(tmp_path / DAY, users__csv=f"{','.join(row)}\n{','.join(row.values())}\n")
    error = refused(folder, database)
    assert f"users.csv: 1 error\n  line 2, {column}: '{cell}'; expected" in error
    assert f"  If that is form alone, say in mapping.yml beside it: {said}" in error


def test_a_mapping_beside_the_drops_is_of_all_of_them(database: Database, tmp_path: Path) -> None:
    put(tmp_path, mapping__yml="separator: ';'\n")
    load(put(tmp_path / DAY, users__csv="user_id;signup_date\na;2024-01-01\n"), database)
    assert rows(database, "users", "user_id, signup_date::text") == [("a", "2024-01-01")]


@pytest.mark.parametrize(
    ("mapping", "users", "expected"),
    [
        ("dates: DD/MM/YYYY", "a,31/02/2024", "2, signup_date: '31/02/2024'; expected a date as"),
        ("dates: MM/DD/YYYY", "a,31/01/2024", "'31/01/2024'; expected a date as MM/DD/YYYY"),
        ("true: [Y]\nfalse: [N]", "a,2024-01-01,maybe", "'maybe'; expected one of Y, N"),
        ("seperator: ';'", "", "mapping.yml: 1 error\n  seperator: unknown; expected one of"),
        ("separator: ';;'", "", "separator: ';;'; expected one character"),
        ("time_zone: Mars/Olympus", "", "'Mars/Olympus'; expected a name of the time zone database"),
        ("files: {people: {}}", "", "files.people: no table of a drop; expected one of users"),
        ("files: {users: {columns: {nobody: x}}}", "", "files.users.columns"),
        ("dates: soon", "", "dates: 'soon'; expected a form such as DD/MM/YYYY"),
        ("a: [", "", "is no YAML"),
        ("encoding: klingon", "", "encoding: 'klingon'; expected an encoding that Python knows"),
        ("files: {users: {header: [a, a]}}", "", "files.users.header: '['a', 'a']'; expected a list of names, all different"),
        ("files: {usage: {repeats: first}}", "", "expected it for states and aggregates; an event of one id is one event"),
        ("files: {users: {repeats: maybe}}", "", "expected one of error, first, last"),
        ("- a", "", "expected keys and values"),
        ("files: {users: {make: {user_gender: '{nothing}'}}}", "a,2024-01-01", "is made from 'nothing'"),
    ],
)  # fmt: skip
def test_what_a_mapping_cannot_mean_is_an_error(
    database: Database, tmp_path: Path, mapping: str, users: str, expected: str
) -> None:
    before = everything(database)
    lines = f"user_id,signup_date,user_is_senior\n{users}{',' * (2 - users.count(','))}\n"
    folder = put(tmp_path / DAY, mapping__yml=mapping, users__csv=lines)
    assert expected in refused(folder, database)
    assert everything(database) == before


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("users__csv", "user_id;signup_date\na;2024-01-01\n", "looks separated by semicolons; expected ','. Write"),
        ("users__csv", "user_id\tsignup_date\n", 'looks separated by tabs; expected \',\'. Write the file so, or say separator: "\\t"'),
        ("users__csv", "User_ID,signup_date\na,2024-01-01\n", "unknown column 'User_ID'; did you mean user_id?"),
        ("users__csv", " user_id ,signup_date\na,2024-01-01\n", "unknown column ' user_id '; did you mean user_id?"),
        ("users__csv__gz", gzip.compress(b"user_id,signup_date\na,2024-01-01\n", mtime=0)[:-9], "users.csv.gz: 1 error\n  is no whole gzip file"),
        ("users__csv__gz", b"user_id,signup_date\n", "is no whole gzip file"),
        ("users__parquet", b"PAR1 no", "users.parquet: 1 error\n  is no Parquet file"),
        ("users__csv", "user_id,signup_date\nNULL,2024-01-01\nnan,2024-01-01\n", "line 2, user_id: 'NULL' says that there is none"),
    ],
)  # fmt: skip
def test_a_form_that_nobody_mapped_is_told_by_its_cause(
    database: Database, tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    before = everything(database)
    said = refused(put(tmp_path / DAY, **{name: content}), database)
    assert expected in said
    assert "user_id: the column is missing" not in said
    assert everything(database) == before
