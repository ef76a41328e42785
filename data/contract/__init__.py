"""The drop contract: the tables of a drop, as the dbt project's `_sources.yml` declares them.

That file is the only list of raw tables and columns: the raw tables are made from it, the loader
reads files by it, `python -m data contract` prints it, and dbt documents it.
"""

from data.contract.declaration import DeclarationError, declared, read
from data.contract.tables import Column, Table, dbt_docs, listers, markdown
from data.contract.types import MAX_CHARACTERS, NO_ID, USER, is_user_id

__all__ = [
    "MAX_CHARACTERS",
    "NO_ID",
    "USER",
    "Column",
    "DeclarationError",
    "Table",
    "dbt_docs",
    "declared",
    "is_user_id",
    "listers",
    "markdown",
    "read",
]
