"""The drop contract, written once: the tables of a drop, their columns, types, units and meaning.

`data/postgres/setup.py` makes the raw tables from it, `data/load` reads files by it, `data/sample`
writes files by it, `python -m data contract` prints it. An add-on column is one more
`Column(..., optional=True)`: files may then carry it or leave it out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_ID = ("null", "nan", "none", "n/a", "<na>")
"""What tools write for an id that is missing; in any case."""
MAX_CHARACTERS = 200
"""Longest value of any cell; longer ones are taken for damage."""


@dataclass(frozen=True)
class Type:
    """How a value is written in a file, and as what Postgres keeps it."""

    name: str
    sql: str
    pattern: str  # of the whole cell; means the same to Python's `re` and to RE2
    expected: str  # completes "expected ..."


# Control characters, line separators and a byte order mark never belong into a text.
_INNER = r"[^\x00-\x1f\x7f-\x9f" + "\u2028\u2029\ufeff]"
_SPACES = " \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_EDGE = _INNER[:-1] + _SPACES + "]"
_DATE = r"(?:19|20|21)[0-9]{2}-[0-9]{2}-[0-9]{2}"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
_OFFSET = r"(?:Z|[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)"

TEXT = Type(
    "text",
    "text",
    f"{_EDGE}(?:{_INNER}*{_EDGE})?",
    f"a text of 1 to {MAX_CHARACTERS} characters, no spaces around it, no control characters",
)
# What people have: e-mail addresses, paths, names in any script. In a URL they are percent-encoded,
# and there `.` and `..` mean folders however they are written: nobody could ask for such a user.
_NO_DOT = _EDGE[:-1] + ".]"
USER = Type(
    "user id",
    "text",
    rf"{_NO_DOT}(?:{_INNER}*{_EDGE})?|\.(?:{_NO_DOT}|{_INNER}+{_EDGE})",
    f"a user id of 1 to {MAX_CHARACTERS} characters, no spaces around it, no control characters, "
    "not . or ..",
)
ID = Type("id", "text", TEXT.pattern, TEXT.expected)
BOOLEAN = Type(
    "boolean", "boolean", "[Tt]rue|TRUE|[Ff]alse|FALSE", "true or false (any of True, true, TRUE)"
)
COUNT = Type("count", "bigint", "[0-9]{1,15}", "a whole number >= 0 of at most 15 digits")
DOUBLE = Type(
    "double",
    "double precision",
    r"[0-9]{1,15}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?",
    "a number >= 0",
)
DATE = Type("date", "date", _DATE, "a date that exists, as YYYY-MM-DD")
INSTANT = Type(
    "instant",
    "timestamptz",
    f"{_DATE}[T ]{_TIME}{_OFFSET}?",
    "an instant that exists, such as 2024-01-31T18:03:59.123456Z (no offset means UTC)",
)


_USER_ID = re.compile(USER.pattern)


def is_user_id(text: str) -> bool:
    """Whether this can be a user's id: in a file, in a request, on a command line."""
    # A lone surrogate is what is left of a byte that was not UTF-8.
    return (
        len(text) <= MAX_CHARACTERS
        and text.casefold() not in NO_ID
        and _USER_ID.fullmatch(text) is not None
        and (text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text))
    )


def decimal(scale: int, digits: int = 15) -> Type:
    """An exact number >= 0 with at most `digits` digits before the point and `scale` after it."""
    return Type(
        f"decimal({scale})",
        f"numeric({digits + scale},{scale})",
        rf"[0-9]{{1,{digits}}}(?:\.[0-9]{{1,{scale}}})?",
        f"a number >= 0 with at most {scale} decimals",
    )


def amount(scale: int, digits: int = 15) -> Type:
    """As decimal, of either sign: what goes back is negative."""
    exact = decimal(scale, digits)
    return Type(
        f"amount({scale})",
        exact.sql,
        f"-?{exact.pattern}",
        f"a number with at most {scale} decimals, negative for a refund",
    )


def choice(*values: str) -> Type:
    """One of a few texts."""
    return Type("choice", "text", "|".join(values), "one of " + ", ".join(values))


@dataclass(frozen=True)
class Column:
    """One column of a file."""

    name: str
    type: Type
    meaning: str
    unit: str = ""
    nullable: bool = False  # an empty cell means NULL: unknown or not applicable
    optional: bool = False  # an add-on: the file may lack the column
    not_before: str = ""  # another column of the row that must not lie after this one

    @property
    def is_id(self) -> bool:
        """Whether it names a user or an event."""
        return self.type.name in ("user id", "id")

    @property
    def may_be_absent(self) -> bool:
        """Whether a file may lack the column: then all its values are unknown."""
        return self.nullable or self.optional

    @property
    def expected(self) -> str:
        """What a cell must hold, with its unit."""
        unit = "" if self.type in (DATE, INSTANT) else self.unit
        return self.type.expected + (f" ({unit})" if unit else "")


@dataclass(frozen=True)
class Table:
    """One file of a drop and the raw table that keeps it."""

    name: str
    grain: str  # state, aggregate or event
    meaning: str
    columns: tuple[Column, ...]

    @property
    def file(self) -> str:
        """The file's name inside a drop."""
        return f"{self.name}.csv"

    @property
    def key(self) -> str:
        """The column that names a row: the event's id, or the user (one row a user and drop)."""
        return self.columns[0].name

    @property
    def event_time(self) -> str | None:
        """The column that says when it happened; None for state and aggregates."""
        return self.columns[2].name if self.grain == "event" else None

    @property
    def is_event(self) -> bool:
        """Whether a row may be stated by several drops, the newest of which wins."""
        return self.grain == "event"

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError when there is none."""
        return {column.name: column for column in self.columns}[name]


USER_ID = Column("user_id", USER, "the user; listed in users.csv of this or an earlier drop")

USERS = Table(
    "users",
    "state",
    "Who is a user at the drop's as_of. A user who left is no longer listed.",
    (
        Column("user_id", USER, "the user"),
        Column("signup_date", DATE, "first day as a user, not after the drop", "UTC date"),
        Column(
            "user_gender",
            TEXT,
            "gender as told by the user; unknown until a drop lists the user",
            nullable=True,
        ),
        Column("user_is_senior", BOOLEAN, "whether the user is 65 years or older", nullable=True),
        Column("has_family", BOOLEAN, "whether the user lives with a partner", nullable=True),
        Column(
            "has_dependents",
            BOOLEAN,
            "whether children or other dependents live with the user",
            nullable=True,
        ),
    ),
)
SUBSCRIPTIONS = Table(
    "subscriptions",
    "state",
    "The user's contract at the drop's as_of.",
    (
        USER_ID,
        Column(
            "months_active",
            COUNT,
            "months with a contract, as the drop states it",
            "months",
            nullable=True,
        ),
        Column(
            "plan_stream_tv",
            BOOLEAN,
            "whether the plan has TV; empty where it does not apply, as without internet",
            nullable=True,
        ),
        Column(
            "plan_stream_movies",
            BOOLEAN,
            "whether the plan has movies; empty where it does not apply, as without internet",
            nullable=True,
        ),
        Column(
            "contract_type",
            TEXT,
            "how long the contract binds: Month-to-month, One year or Two year",
            nullable=True,
        ),
        Column(
            "paperless_billing",
            BOOLEAN,
            "whether bills are sent electronically only",
            nullable=True,
        ),
        Column("monthly_fee", decimal(2), "fee of one month", "dollars", nullable=True),
        Column("total_paid", decimal(2), "paid since signup", "dollars", nullable=True),
        Column(
            "net_service",
            TEXT,
            "internet service of the household: DSL, Fiber optic or No",
            nullable=True,
        ),
    ),
)
LABELS = Table(
    "labels",
    "state",
    "What became of the user, told with hindsight for this as_of.",
    (
        USER_ID,
        Column(
            "churn_label",
            BOOLEAN,
            "whether the user left after as_of and before the next drop; told with hindsight",
        ),
    ),
)
USAGE_AGG = Table(
    "usage_agg_30d",
    "aggregate",
    "Viewing before as_of, as delivered from the time before sessions were captured.",
    (
        USER_ID,
        Column("watch_hours_30d", DOUBLE, "watched in 30 days", "hours", nullable=True),
        Column("avg_session_mins_7d", DOUBLE, "mean session in 7 days", "minutes", nullable=True),
        Column("unique_devices_30d", COUNT, "devices used in 30 days", "devices", nullable=True),
        Column("skips_7d", COUNT, "skips in 7 days", "skips", nullable=True),
        Column("rebuffer_events_7d", COUNT, "stalls in 7 days", "stalls", nullable=True),
    ),
)
PAYMENTS_AGG = Table(
    "payments_agg_90d",
    "aggregate",
    "Payments before as_of, as delivered from the time before attempts were captured.",
    (
        USER_ID,
        Column(
            "failed_payments_90d", COUNT, "failed attempts in 90 days", "attempts", nullable=True
        ),
    ),
)
SUPPORT_AGG = Table(
    "support_agg_90d",
    "aggregate",
    "Support before as_of, as delivered from the time before tickets were captured.",
    (
        USER_ID,
        Column("support_tickets_90d", COUNT, "opened in 90 days", "tickets", nullable=True),
        Column(
            "ticket_avg_resolution_hrs_90d",
            DOUBLE,
            "mean time from opening to resolution",
            "hours",
            nullable=True,
        ),
    ),
)
USAGE = Table(
    "usage",
    "event",
    "Viewing sessions.",
    (
        Column("session_id", ID, "the session"),
        USER_ID,
        Column("started_at", INSTANT, "when it began", "UTC"),
        Column("device_id", TEXT, "the device; empty when not told", nullable=True),
        Column("watch_minutes", decimal(4, digits=8), "time watched", "minutes"),
        Column("skips", COUNT, "skips; empty when not told", "skips", nullable=True),
        Column("rebuffer_events", COUNT, "stalls; empty when not told", "stalls", nullable=True),
    ),
)
PAYMENTS = Table(
    "payments",
    "event",
    "Attempts to charge a user.",
    (
        Column("payment_id", ID, "the attempt"),
        USER_ID,
        Column("attempted_at", INSTANT, "when it was made", "UTC"),
        Column("amount", amount(2), "what was charged; negative: paid back", "dollars"),
        Column("status", choice("succeeded", "failed"), "how it ended"),
    ),
)
SUPPORT = Table(
    "support",
    "event",
    "Support tickets and complaints.",
    (
        Column("ticket_id", ID, "the ticket"),
        USER_ID,
        Column("opened_at", INSTANT, "when it was opened", "UTC"),
        Column(
            "resolved_at",
            INSTANT,
            "when it was resolved; empty while it is open",
            "UTC",
            nullable=True,
            not_before="opened_at",
        ),
        Column(
            "category",
            choice(
                *(
                    f"{kind}/{topic}"
                    for kind in ("ticket", "complaint")
                    for topic in ("billing", "playback", "account", "content")
                )
            ),
            "kind and topic",
        ),
    ),
)

TABLES = (
    USERS,
    SUBSCRIPTIONS,
    LABELS,
    USAGE,
    PAYMENTS,
    SUPPORT,
    USAGE_AGG,
    PAYMENTS_AGG,
    SUPPORT_AGG,
)
"""All tables of a drop; `users` first, because the others are checked against it."""


def markdown(tables: tuple[Table, ...] = TABLES) -> str:
    """The contract as markdown, one table of columns for each file."""
    parts = []
    for table in tables:
        key = "one row a user" if not table.is_event else f"one row a {table.key}"
        parts.append(f"### {table.file}\n\n{table.meaning} {table.grain.capitalize()}: {key}.\n")
        parts.append("| column | type | unit | may be empty | meaning |\n|---|---|---|---|---|")
        for column in table.columns:
            empty = "yes" if column.nullable else "no"
            if column.optional:
                empty = "yes, or absent"
            kind = column.type.expected if column.type.name == "choice" else column.type.name
            parts.append(f"| {column.name} | {kind} | {column.unit} | {empty} | {column.meaning} |")
        parts.append("")
    return "\n".join(parts)


def dbt_docs(tables: tuple[Table, ...] = TABLES) -> str:
    """The meanings as dbt's doc blocks, `<table>__<column>`, for models to refer to."""
    parts = ["<!-- Written by `python -m data contract --dbt` from data/contract.py. -->"]
    for table in tables:
        for column in table.columns:
            meaning = f"{column.meaning[0].upper()}{column.meaning[1:]}."
            parts.append(f"{{% docs {table.name}__{column.name} %}}{meaning}{{% enddocs %}}")
    return "\n\n".join(parts) + "\n"
