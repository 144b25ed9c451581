"""`Documents`: the heavy JSON that is carried beside runs."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from ledger import limits
from ledger.api import Ledger
from ledger.errors import InvalidInput, RunNotFound
from ledger.run.values import check_text, check_uuid
from projections.documents import DOCUMENTS, DocumentFilter, DocumentRow
from projections.projector import fresh
from projections.stores import open_document_tables

_NAME: Final = limits.NAME_CHARS_MAX
_KINDS_MAX: Final = 100
_NAMES_AT_ONCE: Final = 20
_decode = msgspec.json.decode


class Documents:
    """The documents of a ledger's runs, for reading; each read is as fresh as the log. Safe to use from any thread.

    Args:
        log: The ledger.
    """

    def __init__(self, log: Ledger) -> None:
        self._log = log
        self._tables = open_document_tables(log.store)

    def get(self, run_id: str, name: str) -> Any:
        """Give a run's latest document of a name; None when there is none, or it is null.

        Raises:
            InvalidInput: when the id is no UUID, or the name no name.
            RunNotFound: when there is no such run.
        """
        check_uuid(run_id, field="run_id")
        check_text(name, field="name", chars_max=_NAME)
        found = fresh(self._log, DOCUMENTS.name, partial(self._tables.named, run_id=run_id, name=name))
        if not found:
            self._require_known(run_id)
        return _decode(found[0]) if found else None

    def of_run(self, run_id: str) -> dict[str, Any]:
        """Give all documents of a run by name, in the order in which the names first appeared.

        Raises:
            RunNotFound: when there is no such run.
        """
        check_uuid(run_id, field="run_id")
        documents: dict[str, Any] = {}
        after, more = -1, True
        while more:
            read = partial(self._tables.rows_of, run_id=run_id, after=after, limit=_NAMES_AT_ONCE)
            rows = fresh(self._log, DOCUMENTS.name, read)
            for row in map(DocumentRow._make, rows):
                documents[row.name] = _decode(row.data)
                after = row.number
            more = len(rows) == _NAMES_AT_ONCE
        if not documents:
            self._require_known(run_id)
        return documents

    def latest(
        self,
        name: str,
        *,
        project: str | None = None,
        kinds: Sequence[str] | None = None,
        non_empty: bool = True,
    ) -> tuple[str, Any] | None:
        """Give the document of a name that the newest run has, with that run's id. Deleted runs are left out.

        Args:
            name: Its name.
            project: Of this project's runs; None is any.
            kinds: Of runs of these kinds; None is any.
            non_empty: Pass over documents that say nothing: null, and an empty list, object or text.
        """
        if isinstance(kinds, str) or (kinds is not None and len(kinds) > _KINDS_MAX):
            raise InvalidInput("kinds", f"is no list of up to {_KINDS_MAX} kinds.")
        wanted = DocumentFilter(
            name=check_text(name, field="name", chars_max=_NAME),
            project=None if project is None else check_text(project, field="project", chars_max=_NAME),
            kinds=tuple(check_text(kind, field="kinds", chars_max=_NAME) for kind in kinds or ()),
            non_empty=non_empty,
        )
        found = fresh(self._log, DOCUMENTS.name, partial(self._tables.latest, wanted=wanted))
        return (found[0][0], _decode(found[0][1])) if found else None

    def _require_known(self, run_id: str) -> None:
        known = fresh(self._log, DOCUMENTS.name, partial(self._tables.versions, run_ids=[run_id]))
        if run_id not in known:
            raise RunNotFound(run_id)
