"""An error of `feast` on the command line: one line, as from any other command.

Feast's command line lets what it does not expect end in a traceback: of the 84 lines for a view
that does not exist, the last says so. Feast offers no place for this; the program's own hook for
uncaught errors is set when it loads our stores. `feast --log-level debug ...` shows the traceback.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import TracebackType

import psycopg

OURS = ("data.", "streamflow_feast.", "feast.errors")
_shown_before = sys.excepthook


def _is_told(error: BaseException) -> bool:
    """Whether the text is meant for the user. A defect (TypeError and the like) is not."""
    known = isinstance(error, ValueError | OSError | psycopg.Error)
    return known or type(error).__module__.startswith(OURS)


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    # --log-level sets the level of Feast's own loggers.
    debug = logging.getLogger("feast.feature_store").isEnabledFor(logging.DEBUG)
    if debug or not _is_told(error):
        _shown_before(kind, error, traceback)
        return
    print(f"Error: {' '.join(str(error).split()) or kind.__name__}", file=sys.stderr)


if Path(sys.argv[0]).name in ("feast", "feast.exe"):
    sys.excepthook = _show
    # That an attempt to connect failed is what the error says.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
