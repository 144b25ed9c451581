"""The words of the source systems: how each names what a run is, in tables that are read both ways.

A vocabulary changes no rule. Writing, a system's word for a status is looked up here before the ledger is asked;
reading, `view` gives a run under the system's names. What a system has no word for is told by the nearest one that
its readers act on in the same way: a run that waits is `running` for Sentri, which knows no queue.

Source: the five systems' own schemas; a word that only one version of a system wrote is read as well.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from ledger.errors import InvalidInput
from ledger.run.codec import timestamp
from ledger.run.state import Run, RunState
from ledger.run.values import JsonObject, Status

Fact = str | Callable[[Run], object]
"""Where a field's value comes from: a field of `Run`, or what makes it of one."""

_WAITING: Final = (Status.SCHEDULED, Status.QUEUED)
_ACTIVE: Final = (*_WAITING, Status.RUNNING, Status.INTERRUPTED)

ALIASES: Final[Mapping[str, Status]] = {
    "pending": Status.QUEUED,
    "building": Status.RUNNING,
    "passed": Status.COMPLETED,
    "succeeded": Status.COMPLETED,
    "completed_empty": Status.COMPLETED,
    "canceled": Status.ABORTED,
    "cancelled": Status.ABORTED,
    "superseded": Status.ABORTED,
}
"""Words that mean one status, whoever says them; beside the statuses themselves."""


class Vocabulary(NamedTuple):
    """How one system speaks of runs.

    Attributes:
        name: What it is asked for by.
        words: Its word for each status.
        statuses: For each of its words, the statuses that it covers; the first is what writing it means.
        status_field: Its name of the status.
        fields: Its names, in its order, and where the values come from.
    """

    name: str
    words: Mapping[Status, str]
    statuses: Mapping[str, tuple[Status, ...]]
    status_field: str
    fields: Mapping[str, Fact]


def status_of(word: str, vocabulary: Vocabulary | None = None) -> Status:
    """Give the status that a word means when it is written.

    Raises:
        InvalidInput: when nobody says that word.
    """
    return statuses_of(word, vocabulary)[0]


def statuses_of(word: str, vocabulary: Vocabulary | None = None) -> tuple[Status, ...]:
    """Give the statuses that a word covers when it is asked for.

    Args:
        word: A word of the vocabulary; without one, a status or one of `ALIASES`.
        vocabulary: Whose word it is.

    Raises:
        InvalidInput: when it is none of its words.
    """
    if vocabulary is not None and word in vocabulary.statuses:
        return vocabulary.statuses[word]
    if vocabulary is None and word in tuple(Status):
        return (Status(word),)
    if vocabulary is None and word in ALIASES:
        return (ALIASES[word],)
    known = [*Status, *ALIASES] if vocabulary is None else list(vocabulary.statuses)
    raise InvalidInput("status", f"{word!r} is none of: {', '.join(known)}.")


def word_of(run: Run, vocabulary: Vocabulary) -> str:
    """Give the system's word for a run's status; a word that the run was written with is kept where it still holds."""
    written = run.labels.get(STATUS_LABEL)
    if written is not None and vocabulary.statuses.get(written, ())[:1] == (run.status,):
        return written
    return vocabulary.words[run.status]


STATUS_LABEL: Final = "status_word"
"""The label that keeps a finer word than the status has, such as `completed_empty`."""


def view(run: Run, vocabulary: Vocabulary) -> JsonObject:
    """Give a run under a system's names: JSON values, times in the ledger's text format.

    Args:
        run: The run; of a `RunState`, gates are shown where the system shows them.
        vocabulary: The system's.
    """
    return {
        name: word_of(run, vocabulary) if name == vocabulary.status_field else _shown(run, fact)
        for name, fact in vocabulary.fields.items()
    }


def _shown(run: Run, fact: Fact) -> Any:
    value = fact(run) if callable(fact) else getattr(run, fact)
    return timestamp(value) if isinstance(value, datetime) else value


def label(name: str) -> Callable[[Run], object]:
    """Give a fact that the system keeps as a label."""
    return lambda run: run.labels.get(name)


def elapsed_s(run: Run, *, now: datetime) -> int:
    """Give the seconds from a run's start to its end, or to now; never negative, and 0 when it has not begun."""
    if run.started_at is None:
        return 0
    return max(0, int(((run.finished_at or now) - run.started_at).total_seconds()))


SUPERSEDED: Final = "superseded by a newer /rebuild"
"""What Sando says of a build that a newer one took the place of."""


def _settled(run: Run) -> bool:
    return run.status.is_terminal


def _sando_phase(run: Run) -> str:
    return "done" if run.status.is_terminal else run.phase or "queued"


def _sando_summary(run: Run) -> str | None:
    if run.status is Status.ABORTED:
        return SUPERSEDED if run.error_category == "superseded" else run.error
    return run.failure_summary


def _sando_gates(run: Run) -> list[JsonObject]:
    gates = run.gates.values() if isinstance(run, RunState) else ()
    return [
        {"kind": gate.gate, "status": gate.outcome.value, "log_ref": gate.log_ref}
        for gate in sorted(gates, key=lambda gate: gate.gate)
    ]


def _sentri_gate_result(run: Run) -> JsonObject | None:
    if not isinstance(run, RunState) or not run.gates:
        return None
    violations = [
        f"{gate.gate}: {gate.summary or gate.outcome}" for gate in run.gates.values() if gate.outcome != "passed"
    ]
    return {"passed": not violations, "violations": violations}


SENTRI: Final = Vocabulary(
    name="sentri",
    words={
        **dict.fromkeys((*_WAITING, Status.RUNNING), "running"),
        Status.INTERRUPTED: "interrupted",
        Status.COMPLETED: "completed",
        Status.FAILED: "failed",
        Status.ABORTED: "aborted",
    },
    statuses={
        "running": (Status.RUNNING, *_WAITING),
        "completed": (Status.COMPLETED,),
        "completed_empty": (Status.COMPLETED,),
        "failed": (Status.FAILED,),
        "aborted": (Status.ABORTED,),
        "interrupted": (Status.INTERRUPTED,),
    },
    status_field="status",
    fields={
        "id": "run_id",
        "projectId": "project",
        "type": "kind",
        "status": "status",
        "startedAt": lambda run: run.started_at or run.created_at,
        "finishedAt": "finished_at",
        "duration": "duration_ms",
        "error": "error",
        "errorCategory": "error_category",
        "currentStep": "phase",
        "passed": "passed",
        "failed": "failed",
        "total": "total",
        "shardCount": "shard_count",
        "shardsCompleted": "shards_completed",
        "gateResult": _sentri_gate_result,
        "deletedAt": "deleted_at",
    },
)
SPRONGUS: Final = Vocabulary(
    name="sprongus",
    words={
        **dict.fromkeys(_WAITING, "queued"),
        **dict.fromkeys((Status.RUNNING, Status.INTERRUPTED), "running"),
        Status.COMPLETED: "succeeded",
        Status.FAILED: "failed",
        Status.ABORTED: "canceled",
    },
    statuses={
        "queued": (Status.QUEUED, Status.SCHEDULED),
        "running": (Status.RUNNING, Status.INTERRUPTED),
        "succeeded": (Status.COMPLETED,),
        "failed": (Status.FAILED,),
        "canceled": (Status.ABORTED,),
    },
    status_field="state",
    fields={
        "id": "run_id",
        "projectId": "project",
        "kind": "kind",
        "outputRef": "output_ref",
        "error": "error",
        "state": "status",
        "idempotencyKey": "idempotency_key",
        "attempt": "attempt",
        "maxAttempts": "attempts_max",
        "claimedBy": "worker",
        "claimedAt": "started_at",
        "startedAt": "started_at",
        "finishedAt": "finished_at",
        "createdAt": "created_at",
        "updatedAt": "updated_at",
    },
)
CHOO: Final = Vocabulary(
    name="choo",
    words={
        **dict.fromkeys(_WAITING, "pending"),
        **dict.fromkeys((Status.RUNNING, Status.INTERRUPTED), "running"),
        Status.COMPLETED: "completed",
        Status.FAILED: "failed",
        Status.ABORTED: "cancelled",
    },
    statuses={
        "pending": (Status.QUEUED, Status.SCHEDULED),
        "running": (Status.RUNNING, Status.INTERRUPTED),
        "completed": (Status.COMPLETED,),
        "failed": (Status.FAILED,),
        "cancelled": (Status.ABORTED,),
    },
    status_field="status",
    fields={
        "id": "run_id",
        "feature_branch": label("feature_branch"),
        "repo_path": label("repo_path"),
        "target_branch": label("target_branch"),
        "tasks_dir": label("tasks_dir"),
        "status": "status",
        "daemon_version": label("daemon_version"),
        "started_at": "started_at",
        "completed_at": "finished_at",
        "error": lambda run: run.error if _settled(run) else None,
    },
)
SANDO: Final = Vocabulary(
    name="sando",
    words={
        **dict.fromkeys(_ACTIVE, "building"),
        Status.COMPLETED: "passed",
        Status.FAILED: "failed",
        Status.ABORTED: "aborted",
    },
    statuses={
        "building": (Status.RUNNING, *_WAITING, Status.INTERRUPTED),
        "passed": (Status.COMPLETED,),
        "failed": (Status.FAILED,),
        "aborted": (Status.ABORTED,),
        "superseded": (Status.ABORTED,),
    },
    status_field="result",
    fields={
        "run_id": "run_id",
        "sha": label("sha"),
        "version": "resolved_version",
        "phase": _sando_phase,
        "result": "status",
        "started_at": lambda run: run.started_at or run.created_at,
        "finished_at": "finished_at",
        "failure_summary": _sando_summary,
        "gates": _sando_gates,
    },
)

VOCABULARIES: Final[Mapping[str, Vocabulary]] = {words.name: words for words in (SENTRI, SPRONGUS, CHOO, SANDO)}


def vocabulary(name: str) -> Vocabulary:
    """Give a system's vocabulary.

    Raises:
        InvalidInput: when there is none of that name.
    """
    known = VOCABULARIES.get(name)
    if known is None:
        raise InvalidInput("vocabulary", f"{name!r} is none of: {', '.join(VOCABULARIES)}.")
    return known
