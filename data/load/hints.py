"""What a mapping.yml could say of a cell that is not in the contract's form: told, not guessed."""

from __future__ import annotations

import re

from data.contract import Column

WITH_TIME = "with hh:mm:ss where there is a time"
HINTS = (  # of which columns, what people write, what a mapping says of it
    ("boolean", r"(?i)yes|no|y|n|t|f|on|off|[01]", "true: [yes, t, 1] and false: [no, f, 0]"),
    ("moment", r"\d{10}", "dates: epoch_seconds"),
    ("moment", r"\d{13}", "dates: epoch_milliseconds"),
    ("moment", r"\d{16}", "dates: epoch_microseconds"),
    (
        "moment",
        r"\d\d?/\d\d?/\d{4}.*",
        f"dates: DD/MM/YYYY or MM/DD/YYYY, {WITH_TIME}",
    ),
    ("moment", r"\d\d?\.\d\d?\.\d{4}.*", f"dates: DD.MM.YYYY, {WITH_TIME}"),
    ("instant", r"\d{4}-\d{2}-\d{2}", "dates: YYYY-MM-DD"),
    ("moment", r"\d{4}-.* UTC", "dates: YYYY-MM-DD hh:mm:ss UTC"),
    ("whole", r"-?\d+\.0+", 'decimal: "." (with any mapping 3.0 is 3)'),
    ("number", r"-?\d+,\d{1,2}", 'decimal: ","'),
    ("number", r"[^0-9]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^0-9]*", 'thousands: ","'),
    ("number", r".*[$€£¥].*", "currency: and its sign"),
    ("array", r"[^\[]*[|;].*", "list_separator: and its sign"),
    ("nullable", r"(?i)null|nan|none|n/?a|<na>|-|\\n", "empty: and the words that mean it"),
)


def hint(column: Column, text: str) -> str | None:
    """The entry of a mapping that would take a cell, as far as its looks tell."""
    kinds = {
        "boolean": column.type.name == "boolean",
        "moment": column.type.name in ("date", "instant"),
        "instant": column.type.name == "instant",
        "number": column.type.is_number,
        "whole": column.type.sql == "bigint",
        "array": column.type.sql.endswith("[]"),
        "nullable": column.may_be_absent,
    }
    return next(
        (said for kind, form, said in HINTS if kinds[kind] and re.fullmatch(form, text)), None
    )
