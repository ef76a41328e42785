"""A bad drop changes nothing, and its message names file, line, column, value and remedy.

If one of these fails, people load damaged deliveries, or search by hand for what is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data.database import Database
from data.load.check import DropError
from data.load.load import load
from tests.data.drops import HEADERS, USERS, everything

USER = (
    "expected a user id of 1 to 200 characters, no spaces around it, no control characters, "
    "not . or .."
)
TEXT = "expected a text of 1 to 200 characters, no spaces around it, no control characters"
INSTANT = (
    "expected an instant that exists, such as 2024-01-31T18:03:59.123456Z (no offset means UTC)"
)
COUNT = "expected a whole number >= 0 of at most 15 digits"
MINUTES = "expected a number >= 0 with at most 8 digits before the point and 4 after it (minutes)"
UNKNOWN_USER = "is not known; expected a user of users.csv in this or an earlier loaded drop"
TRUTH = "expected true or false (any of True, true, TRUE)"
MAPPING = "  If that is form alone, say in mapping.yml beside it: "
TRUE_HINT = MAPPING + "true: [yes, t, 1] and false: [no, f, 0]"
CATEGORY = (
    "expected one of ticket/billing, ticket/playback, ticket/account, ticket/content, "
    "complaint/billing, complaint/playback, complaint/account, complaint/content"
)
FILES = ", ".join(f"{name}.csv" for name in HEADERS)
SESSION = "s1,a,2024-03-01T00:00:00Z,d,10,1,1"


def usage(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in [HEADERS["usage"], *lines]).encode()


BAD: dict[str, tuple[dict[str, object], list[str]]] = {
    "missing column": (
        {"labels": b"user_id\na\n"},
        ["labels.csv: 1 error", "  line 1, churn_label: the column is missing"],
    ),
    "unknown column": (
        {"labels": b"user_id,churn_label,score\na,true,1\n"},
        [
            "labels.csv: 1 error",
            "  line 1: unknown column 'score'; expected user_id, churn_label",
        ],
    ),
    "column twice": (
        {"labels": b"user_id,churn_label,churn_label\na,true,false\n"},
        ["labels.csv: 1 error", "  line 1, churn_label: the column is there twice"],
    ),
    "maybe": (
        {"labels": ["a,maybe", "b,1", "a ,"]},
        [
            "labels.csv: 4 errors",
            f"  line 2, churn_label: 'maybe'; {TRUTH}",
            f"  line 3, churn_label: '1'; {TRUTH}",
            f"  line 4, churn_label: empty; {TRUTH}",
            f"  line 4, user_id: 'a '; {USER}",
            TRUE_HINT,
        ],
    ),
    "user twice": (
        {"labels": ["a,true", "b,true", "a,true"]},
        [
            "labels.csv: 1 error",
            "  line 4, user_id: 'a' is already on line 2; expected one row a user",
        ],
    ),
    "label of an unknown user": (
        {"labels": ["nobody,true"]},
        ["labels.csv: 1 error", f"  line 2, user_id: 'nobody' {UNKNOWN_USER}"],
    ),
    "dates": (
        {"users": ["a,2024-02-30,,,,", "b,2024-04-01,,,,", "c,31.1.2024,,,,", "d,,,,,"]},
        [
            "users.csv: 4 errors",
            "  line 2, signup_date: '2024-02-30'; expected a date that exists, as YYYY-MM-DD",
            "  line 3, signup_date: '2024-04-01' lies after the drop (2024-03-31)",
            "  line 4, signup_date: '31.1.2024'; expected a date that exists, as YYYY-MM-DD",
            "  line 5, signup_date: empty; expected a date that exists, as YYYY-MM-DD",
            MAPPING + "dates: DD.MM.YYYY, with hh:mm:ss where there is a time",
        ],
    ),
    "negative hours": (
        {"usage_agg_30d": ["a,-0.5,1,1,1,1", "b,nan,Infinity,1.5,-1,1"]},
        [
            "usage_agg_30d.csv: 5 errors",
            "  line 2, watch_hours_30d: '-0.5'; expected a number >= 0 (hours)",
            "  line 3, avg_session_mins_7d: 'Infinity'; expected a number >= 0 (minutes)",
            f"  line 3, skips_7d: '-1'; {COUNT} (skips)",
            f"  line 3, unique_devices_30d: '1.5'; {COUNT} (devices)",
            "  line 3, watch_hours_30d: 'nan'; expected a number >= 0 (hours)",
            MAPPING + "empty: and the words that mean it",
        ],
    ),
    "numbers": (
        {
            "usage": usage(
                "s1,a,2024-03-01T00:00:00Z,,-1,1 ,1e3",
                "s2,a,2024-03-01T00:00:00Z,,1.23456,1_000,9999999999999999",
                "s3,a,2024-03-01T00:00:00Z,,,\u0661,0x1",
            )
        },
        [
            "usage.csv: 9 errors",
            f"  line 2, rebuffer_events: '1e3'; {COUNT} (stalls)",
            f"  line 2, skips: '1 '; {COUNT} (skips)",
            f"  line 2, watch_minutes: '-1'; {MINUTES}",
            f"  line 3, rebuffer_events: '9999999999999999'; {COUNT} (stalls)",
            f"  line 3, skips: '1_000'; {COUNT} (skips)",
            f"  line 3, watch_minutes: '1.23456'; {MINUTES}",
            f"  line 4, rebuffer_events: '0x1'; {COUNT} (stalls)",
            f"  line 4, skips: '\u0661'; {COUNT} (skips)",
            f"  line 4, watch_minutes: empty; {MINUTES}",
        ],
    ),
    "instants": (
        {
            "payments": [
                "p1,a,2024-03-31T23:30:00-01:00,1,failed",
                "p2,a,2024-03-31,1,failed",
                "p3,a,2024-03-01T24:00:00Z,1,failed",
                "p4,a,2023-02-29T00:00:00Z,1,failed",
                "p5,a,2024-03-01T00:00:00.1234567Z,1,Failed",
            ]
        },
        [
            "payments.csv: 6 errors",
            "  line 2, attempted_at: '2024-03-31T23:30:00-01:00' lies after the drop (2024-03-31)",
            f"  line 3, attempted_at: '2024-03-31'; {INSTANT}",
            f"  line 4, attempted_at: '2024-03-01T24:00:00Z'; {INSTANT}",
            f"  line 5, attempted_at: '2023-02-29T00:00:00Z'; {INSTANT}",
            f"  line 6, attempted_at: '2024-03-01T00:00:00.1234567Z'; {INSTANT}",
            "  line 6, status: 'Failed'; expected one of succeeded, failed",
            MAPPING + "dates: YYYY-MM-DD",
        ],
    ),
    "ticket": (
        {"support": ["t1,a,2024-03-01T00:00Z,2024-02-29T23:59Z,ticket"]},
        [
            "support.csv: 2 errors",
            f"  line 2, category: 'ticket'; {CATEGORY}",
            "  line 2, resolved_at: '2024-02-29T23:59Z' lies before opened_at '2024-03-01T00:00Z'",
        ],
    ),
    "event of an unknown user": (
        {"usage": usage(SESSION, "s2,zoe,2024-03-01T00:00:00Z,d,10,1,1")},
        ["usage.csv: 1 error", f"  line 3, user_id: 'zoe' {UNKNOWN_USER}"],
    ),
    "one id, two events": (
        {"usage": usage(SESSION, SESSION, "s1,a,2024-03-01T00:00:00Z,d,11,1,1")},
        [
            "usage.csv: 1 error",
            "  line 4, session_id: 's1' has other values on line 2; one id, one event",
        ],
    ),
    "not UTF-8": (
        {"usage": usage(SESSION) + b"s2,a,2024-03-01T00:00:00Z,caf\xe9,10,1,1\n"},
        ["usage.csv: 1 error", r"  line 3, device_id: 'caf\xe9' is not UTF-8"],
    ),
    "UTF-16": (
        {"labels": "user_id,churn_label\na,true\n".encode("utf-16")},
        [
            "labels.csv: 1 error",
            "  line 1: the header is not UTF-8, but UTF-16; save the file as UTF-8, or say "
            "encoding: utf-16 in mapping.yml beside it",
        ],
    ),
    "NUL": (
        {"usage": usage("s\0,a,2024-03-01T00:00:00Z,d,10,1,1")},
        [
            "usage.csv: 1 error",
            rf"  line 2, session_id: 's\x00'; {TEXT}"
            if sys.version_info >= (3, 11)
            else "  line 2: a NUL character",
        ],
    ),
    "cut off": (
        {"usage": usage(SESSION) + b"s2,a,2024-03-0"},
        ["usage.csv: 1 error", "  line 3: 3 cells, expected 7; is the line cut off?"],
    ),
    "too many cells": (
        {"labels": ["a,true,", "", "b,true"]},
        [
            "labels.csv: 2 errors",
            "  line 2: 3 cells, expected 2; is a comma not quoted?",
            "  line 3: 0 cells, expected 2; the line is empty",
        ],
    ),
    "quoted line breaks keep the count": (
        {"usage": usage('"s\n\n1",a,2024-03-01T00:00:00Z,d,10,1,1', SESSION, SESSION + "x")},
        [
            "usage.csv: 3 errors",
            rf"  line 2, session_id: 's\n\n1'; {TEXT}",
            f"  line 6, rebuffer_events: '1x'; {COUNT} (stalls)",
            "  line 6, session_id: 's1' has other values on line 5; one id, one event",
        ],
    ),
    "a quote that is never closed": (
        {"labels": ['"a,true', "b,true"]},
        [
            "labels.csv: 1 error",
            "  line 2: a quote is opened and never closed",
        ],
    ),
    "a quote inside a cell": (
        {"labels": ['"a"b,true', "b,no"]},
        [
            "labels.csv: 2 errors",
            "  line 2: text follows a closing quote; expected a comma or the line's end",
            f"  line 3, churn_label: 'no'; {TRUTH}",
            TRUE_HINT,
        ],
    ),
    "a carriage return alone": (
        {"labels": b"user_id,churn_label\na,tr\rue\nb,no\n"},
        [
            "labels.csv: 2 errors",
            "  line 2: a carriage return stands alone; expected lines to end in a line feed",
            f"  line 3, churn_label: 'no'; {TRUTH}",
            TRUE_HINT,
        ],
    ),
    "a huge cell": (
        {"labels": ["a" * 201 + ",true"]},
        [
            "labels.csv: 1 error",
            f"  line 2, user_id: '{'a' * 60}'... (201 characters); {USER}",
        ],
    ),
    "a huge line": (
        {"labels": ["a" * 3_000_000 + ",true", "b,no"]},
        [
            "labels.csv: 2 errors",
            "  line 2: a cell has more than 131072 characters",
            f"  line 3, churn_label: 'no'; {TRUTH}",
            TRUE_HINT,
        ],
    ),
    "empty file": (
        {"labels": b""},
        ["labels.csv: 1 error", "  the file is empty; expected at least a header"],
    ),
    "only the first twenty": (
        {"labels": [f"a,{n}" for n in range(31)]},
        [
            "labels.csv: 61 errors",
            f"  line 2, churn_label: '0'; {TRUTH}",
            *(
                line
                for n in range(1, 10)
                for line in (
                    f"  line {n + 2}, churn_label: '{n}'; {TRUTH}",
                    f"  line {n + 2}, user_id: 'a' is already on line 2; expected one row a user",
                )
            ),
            f"  line 12, churn_label: '10'; {TRUTH}",
            "  and 41 more",
            TRUE_HINT,
        ],
    ),
    "every file is looked at": (
        {"labels": ["a,maybe"], "payments": ["p,a,2024-03-01T00:00Z,1.999,failed"]},
        [
            "labels.csv: 1 error",
            f"  line 2, churn_label: 'maybe'; {TRUTH}",
            "payments.csv: 1 error",
            "  line 2, amount: '1.999'; expected a number with at most 15 digits before the point "
            "and 2 after it (dollars)",
        ],
    ),
    "a header that is nearly right": (  # one cause, one error: not each user of every other file
        {
            "users": HEADERS["users"].replace("user_id", "User_ID").encode()
            + b"\nz,2023-05-01,,,,\n",
            "labels": ["z,true", "y,false"],
            "usage": usage(SESSION.replace(",a,", ",z,")),
        },
        ["users.csv: 1 error", "  line 1: unknown column 'User_ID'; did you mean user_id?"],
    ),
    "headers with spaces and typing errors": (
        {"labels": b"user id, churn_lable\na,true\n"},
        [
            "labels.csv: 2 errors",
            "  line 1: unknown column ' churn_lable'; did you mean churn_label?",
            "  line 1: unknown column 'user id'; did you mean user_id?",
        ],
    ),
    "a user whose line is broken": (
        {"users": [USERS[0], "b,2023-05-01"], "labels": ["b,true", "z,false", "a,maybe"]},
        [
            "users.csv: 1 error",
            "  line 3: 2 cells, expected 6; is the line cut off?",
            "labels.csv: 1 error",
            f"  line 4, churn_label: 'maybe'; {TRUTH}",
        ],
    ),
    "unknown file": (
        {"Usage": b"x\n"},
        ["the folder: 1 error", f"  'Usage.csv' is not a file of a drop; expected {FILES}"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_changes_nothing_and_says_what_is_wrong(
    name: str, database: Database, drop: Callable[..., Path]
) -> None:
    files, expected = BAD[name]
    load(drop("2024-02-29", users=USERS), database)
    before = everything(database)
    folder = drop("2024-03-31", **({"users": USERS} | files))
    with pytest.raises(DropError) as refused:
        load(folder, database)
    first, *lines, last = str(refused.value).split("\n")
    assert lines == expected
    assert first == f"{folder} was refused and nothing was changed."
    assert last == "Correct it and load the folder again."
    assert everything(database) == before


ALONE = {  # one wrong cell in a file of good ones: what the fast reader must not overlook
    "payments": [
        ("p,a,2024-04-01T00:00:00Z,1,failed", "attempted_at"),
        ("p,a,2024-04-01T00:59:59-00:01,1,failed", "attempted_at"),
        ("p,a,2024-02-30T00:00:00Z,1,failed", "attempted_at"),
        ("p,a,,1,failed", "attempted_at"),
        ("p,a,2024-03-31T23:59:59.999999Z,1,", "status"),
        ("p,a,2024-03-31T23:59:59.999999Z,-0.015,failed", "amount"),
        (f"{'p' * 201},a,2024-03-31T00:00Z,1,failed", "payment_id"),
        ("p\u2028,a,2024-03-31T00:00Z,1,failed", "payment_id"),
    ],
    "support": [
        ("t,a,2024-03-01T00:00:00.000001Z,2024-03-01T00:00:00Z,ticket/billing", "resolved_at"),
        ("t,a,2024-03-01T00:00Z,2024-04-01T00:00Z,ticket/billing", "resolved_at"),
    ],
    "usage_agg_30d": [("a,1e999,,,,", "watch_hours_30d"), ("a,,NaN,,,", "avg_session_mins_7d")],
    "labels": [("a,", "churn_label"), ("b,yes", "churn_label"), ("", "expected 2")],
}


@pytest.mark.parametrize("table", ALONE)
def test_a_single_wrong_cell_is_found(
    table: str, database: Database, drop: Callable[..., Path]
) -> None:
    for line, place in ALONE[table]:
        with pytest.raises(DropError) as refused:
            load(drop("2024-03-31", users=USERS, **{table: [line]}), database)
        _, title, problem, *_ = str(refused.value).split("\n")
        assert title == f"{table}.csv: 1 error"
        assert problem.startswith("  line 2"), problem
        assert place in problem, problem


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("march", "its name 'march' is no date; expected YYYY-MM-DD, such as 2024-01-31"),
        ("2024-02-30", "its name '2024-02-30' is no date; expected YYYY-MM-DD, such as 2024-01-31"),
        ("2024-3-1", "its name '2024-3-1' is no date; expected YYYY-MM-DD, such as 2024-01-31"),
        ("2024-03-31", f"is empty; expected at least one of {FILES}"),
    ],
)
def test_a_folder_that_is_no_drop_is_refused(
    name: str, problem: str, drop: Callable[..., Path]
) -> None:
    folder = drop(name, **({} if name == "2024-03-31" else {"users": USERS}))
    with pytest.raises(DropError) as refused:
        load(folder)
    assert str(refused.value).split("\n")[1:-1] == ["the folder: 1 error", f"  {problem}"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DropError, match="there is no such folder"):
        load(tmp_path / "2024-03-31")
