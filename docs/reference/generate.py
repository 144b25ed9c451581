"""Writes the pages and schemas that the code says itself: `make docs`.

    schema/events/<type>.schema.json   from the structs of the events
    docs/reference/events.md           from the same structs and their docstrings
    docs/reference/limits.md           from `ledger/limits.py`
    docs/explanation/run-states.md     from the rules: every command is tried in every status
    schema/openapi.json                from the operations of the HTTP API and their messages
    docs/reference/http-api.md         from the same operations, and the table of problems

`tests/docs/test_generated.py` fails when a file differs from what this would write.
"""

import ast
import inspect
import itertools
import json
import re
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import msgspec

from cli.http.openapi import openapi
from cli.http.problems import STATUSES
from cli.http.routes import OPERATIONS
from ledger import limits
from ledger.errors import LedgerError
from ledger.events import EventId, RunId, join_page
from ledger.run import commands
from ledger.run import events as run_events
from ledger.run.codec import UPCASTERS, decode_page, to_new_events
from ledger.run.events import EVENT_TYPES, TERMINAL_EVENTS, RunEvent, type_of
from ledger.run.profiles import Kind
from ledger.run.state import RunState, fold, initial
from ledger.run.values import GateOutcome, Status, Verdict

ROOT = Path(__file__).parents[2]
NOTE = "<!-- Written by docs/reference/generate.py; change the code and run `make docs`. -->"


def generated() -> dict[str, str]:
    """Give every generated file: its path in the repository, and its text."""
    schemas = {f"schema/events/{tag_of(kind)}.schema.json": schema_text(kind) for kind in [*EVENT_TYPES, *UPCASTERS]}
    return {
        **schemas,
        "docs/reference/events.md": events_page(),
        "docs/reference/limits.md": limits_page(),
        "docs/explanation/run-states.md": states_page(),
        "docs/reference/http-api.md": http_page(),
        "schema/openapi.json": json.dumps(openapi(OPERATIONS), indent=1, ensure_ascii=False) + "\n",
    }


def main() -> None:
    """Write every generated file that is not yet as it should be."""
    for name, text in generated().items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{name}\n")


# --- events -----------------------------------------------------------------------------------------------------


class Doc(NamedTuple):
    """A docstring: what it says first, and what it says of each attribute."""

    text: str
    attributes: dict[str, str]


def doc_of(kind: type) -> Doc:
    """Take a docstring in Google form apart; a struct that says nothing has an empty text."""
    text, _, rest = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("\nAttributes:\n")
    found = re.findall(r"^(\w+): ((?:.|\n )+)", dedent(rest), re.MULTILINE)
    return Doc(one_line(text), {name: one_line(words) for name, words in found})


def one_line(text: str) -> str:
    return " ".join(text.split())


def tag_of(kind: type) -> str:
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]


def schema_of(kind: type) -> dict[str, Any]:
    """Give the JSON Schema of an event's payload, with the docstring's words at their properties."""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs")
    own = definitions.pop(kind.__name__)
    doc = doc_of(kind)
    own.pop("description", None)
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = one_line(definition["description"])
    properties = {
        name: {**shape, **({"description": doc.attributes[name]} if name in doc.attributes else {})}
        for name, shape in own.pop("properties").items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": tag_of(kind),
        **({"description": doc.text} if doc.text else {}),
        **{name: value for name, value in own.items() if name not in ("title", "required")},
        "properties": properties,
        "required": own["required"],
        **({"$defs": definitions} if definitions else {}),
    }


def schema_text(kind: type) -> str:
    return json.dumps(schema_of(kind), indent=2, ensure_ascii=False) + "\n"


def events_page() -> str:
    declared = [kind for kind in vars(run_events).values() if kind in EVENT_TYPES]
    return "\n".join([EVENTS_HEAD, *[event_section(kind) for kind in declared]])


EVENTS_HEAD = f"""{NOTE}
# Events

A run's stream is the ordered list of its events. Each has an **envelope** and **data**.

The envelope: `event_id` (UUIDv7, made by the writer), `run_id`, `type`, `schema_version` (of the data, from 1),
`recorded_at` (UTC, six decimals), `commitment` (salted SHA-256 of the data), and where they are known `actor`,
`correlation_id`, `causation_id` and `traceparent`. The database adds `version`, the event's place in its stream, and
`position`, its place in the log.

The data is what follows, as canonical JSON with its `type` beside the fields. A field that has its default is left out
of the stored bytes. Unknown fields are ignored by readers, so a new optional field needs no new schema version; every
other change gets one, and the old bytes stay readable. JSON Schemas: `schema/events/`, which is `ledger/schema/events/`
in the wheel.
"""


def event_section(kind: type[RunEvent]) -> str:
    schema, closes = schema_of(kind), issubclass(kind, TERMINAL_EVENTS)
    rows = [
        f"| `{name}` | {shape_words(shape)} | {presence(schema, name, shape)} | {shape.get('description', '')} |"
        for name, shape in schema["properties"].items()
        if name != "type"
    ]
    lines = [f"## `{type_of(kind)}`", ""]
    if text := schema.get("description"):
        lines += [text, ""]
    if closes:
        lines += ["Terminal: a run has exactly one such event.", ""]
    if rows:
        lines += ["| field | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    else:
        lines += ["No data.", ""]
    return "\n".join(lines)


WORDS: dict[str, type[StrEnum]] = {"GateOutcome": GateOutcome, "Status": Status, "Verdict": Verdict}


def shape_words(shape: dict[str, Any]) -> str:
    """Say a schema's type in words."""
    if not {"anyOf", "$ref", "type"} & set(shape):
        return "any JSON"
    if "anyOf" in shape:
        return " or ".join(shape_words(part) for part in shape["anyOf"])
    if "$ref" in shape:
        words = WORDS.get(shape["$ref"].rpartition("/")[2])
        return ", ".join(f"`{word}`" for word in words) if words else "object"
    if shape.get("format") == "date-time":
        return "moment"
    if shape["type"] == "array":
        return f"list of {shape_words(shape['items'])}s"
    words = {"string": "text", "object": "object"}
    inner = shape.get("additionalProperties")
    return f"object of {shape_words(inner)}" if inner else words.get(shape["type"], shape["type"])


def presence(schema: dict[str, Any], name: str, shape: dict[str, Any]) -> str:
    return "needed" if name in schema["required"] else f"`{json.dumps(shape['default'])}`"


# --- limits -----------------------------------------------------------------------------------------------------


def limits_page() -> str:
    """Write the limits as `ledger/limits.py` declares them: its sections, names, values and docstrings."""
    source = inspect.getsource(limits)
    sections = {number: title for number, title in section_titles(source)}
    lines, body = [LIMITS_HEAD], ast.parse(source).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        for number in [number for number in sections if number < node.lineno]:
            lines += [f"\n## {sections.pop(number)}\n", "| limit | value | |", "| --- | ---: | --- |"]
        name = node.target.id
        lines.append(f"| `{name}` | {limit_words(name, getattr(limits, name))} | {docstring(following)} |")
    return "\n".join(lines) + "\n"


LIMITS_HEAD = f"""{NOTE}
# Limits

Each is checked before anything is written, in the same place for every database, and tested at n and n + 1. What is
past its limit is refused with `InvalidInput`, which names the value, the limit and what to do; where the words below
say that it is cut or split, it is that instead. The names are those of `ledger.limits`."""


def section_titles(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), 1):
        if found := re.match(r"# --- (.+?) -+$", line):
            yield number, found[1].capitalize()


def docstring(node: ast.stmt | None) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return one_line(str(node.value.value)) if is_text else ""  # type: ignore[union-attr]


def limit_words(name: str, value: float) -> str:
    """Write a limit with its unit, which is in its name."""
    if "_BYTES_" in name:
        return f"{value / 1024 / 1024:g} MiB" if value >= 1024 * 1024 else f"{value / 1024:g} KiB"
    return f"{value:g} s" if name.endswith("_S") else f"{value:,}"


# --- states -----------------------------------------------------------------------------------------------------

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
RUN = RunId("0192f3a0-0000-7000-8000-000000000001")

Try = Callable[[RunState], list[RunEvent]]

ARGUMENTS: dict[str, list[Any]] = {
    "worker": ["w1", "w2"],
    "now": [NOON, LATER],
    "phase": ["build"],
    "resolved_version": ["1.0"],
    "gate": ["lint"],
    "outcome": list(GateOutcome),
    "shard": [0],
    "reason": ["why"],
    "error": ["boom"],
    "retry_at": [None, LATER],
    "finished_at": [LATER],
    "mode": ["user"],
    "skipped": [[]],
    "from_bin": [True, False],
    "is_whole": [True, False],
}
"""What commands are tried with, by the names of their parameters; those that are not here are None."""

MOVES_NOTES = {
    (Status.SCHEDULED, "start", Status.RUNNING): "start, once it is due",
    (Status.RUNNING, "complete", Status.FAILED): "complete, if its kind lets a failed verdict fail it",
    (Status.RUNNING, "fail_attempt", Status.SCHEDULED): "fail_attempt, to be retried later",
    (Status.INTERRUPTED, "fail_attempt", Status.SCHEDULED): "fail_attempt, to be retried later",
}
"""Words for moves that a command makes only sometimes."""


class Move(NamedTuple):
    """A command that changed a run's status."""

    before: Status
    command: str
    events: tuple[str, ...]
    after: Status


class Explored(NamedTuple):
    """What trying every command in every status gave.

    Attributes:
        starts: Statuses in which a run can begin.
        moves: Every change of status.
        answers: To each command in each status: `type` of the events, nothing, or the name of the refusal.
    """

    starts: list[Status]
    moves: list[Move]
    answers: dict[tuple[str, Status], set[str]]


def decisions() -> dict[str, Callable[..., list[RunEvent]]]:
    """Give every decision about a run that exists, by its command; enqueueing makes the run."""
    return {
        name.removeprefix("decide_"): function
        for name, function in vars(commands).items()
        if name.startswith("decide_") and not name.startswith("decide_enqueue")
    }


def all_tries() -> Iterator[tuple[str, Try]]:
    """Give every decision with every combination of arguments."""
    for command, decide in decisions().items():
        names = list(inspect.signature(decide).parameters)[1:]
        for chosen in itertools.product(*[ARGUMENTS.get(name, [None]) for name in names]):
            yield command, partial(decide, **dict(zip(names, chosen, strict=True)))


def enqueued(*, not_before: datetime | None) -> RunState:
    facts: dict[str, Any] = dict.fromkeys(inspect.signature(commands.decide_enqueue).parameters)
    kind = Kind(name="build", failed_verdict_fails=True, attempts_max=2)
    facts |= {"kind": kind, "input": {}, "priority": 0, "not_before": not_before, "now": NOON, "plan": ()}
    return after(initial(RUN), [commands.decide_enqueue(**facts)])


def after(run: RunState, decided: list[RunEvent]) -> RunState:
    """Fold what was decided into a run, through its stored bytes."""
    made = to_new_events(
        decided,
        run_id=RUN,
        recorded_at=NOON,
        event_ids=[EventId(RUN)] * len(decided),
        salts=[b""] * len(decided),
    )
    rows = [(version, version, event.envelope, event.payload) for version, event in enumerate(made, run.version + 1)]
    return fold(run, decode_page(join_page(rows)))


def explore() -> Explored:
    """Try every command in every status that a run can come to, and follow where it leads."""
    starts = [enqueued(not_before=LATER), enqueued(not_before=None)]
    waiting, seen = deque(starts), set[object]()
    moves, answers = dict[Move, None](), defaultdict[tuple[str, Status], set[str]](set)
    while waiting:
        run = waiting.popleft()
        situation = (run.status, run.verdict, run.attempt, run.deleted_at is None, run.purged_at is None)
        if situation in seen:
            continue
        seen.add(situation)
        for command, attempt in all_tries():
            given, decided = answer(attempt, run)
            answers[command, run.status].add(given)
            following = after(run, decided)
            if following.status is not run.status:
                moves[Move(run.status, command, tuple(type_of(event) for event in decided), following.status)] = None
            elif decided:
                answers[command, run.status].add(answer(attempt, following)[0])
            waiting.append(following)
    return Explored([run.status for run in starts], in_order(list(moves)), answers)


def answer(attempt: Try, run: RunState) -> tuple[str, list[RunEvent]]:
    """Say what a run answers to a command, and what is to be appended."""
    try:
        decided = attempt(run)
    except LedgerError as refusal:
        return type(refusal).__name__, []
    return " + ".join(f"`{type_of(event)}`" for event in decided) or "nothing", decided


def in_order(moves: list[Move]) -> list[Move]:
    statuses, names = list(Status), list(decisions())
    return sorted(moves, key=lambda m: (statuses.index(m.before), statuses.index(m.after), names.index(m.command)))


def states_page() -> str:
    explored = explore()
    return STATES_TEXT.format(
        note=NOTE,
        diagram="\n".join(diagram_lines(explored)),
        moves="\n".join(
            f"| {move.before} | `{move.command}` | {' + '.join(f'`{name}`' for name in move.events)} | {move.after} |"
            for move in explored.moves
        ),
        statuses=" | ".join(Status),
        rule=" | ".join(["---"] * (len(Status) + 1)),
        answers="\n".join(
            f"| `{command}` | " + " | ".join(cell(explored.answers[command, status]) for status in Status) + " |"
            for command in decisions()
        ),
    )


def diagram_lines(explored: Explored) -> Iterator[str]:
    """Draw the moves; those between the same two statuses share an arrow."""
    yield from [f"    [*] --> {status}: enqueue" for status in explored.starts]
    pairs = itertools.groupby(explored.moves, key=lambda move: (move.before, move.after))
    for (before, following), moves in pairs:
        names = dict.fromkeys(MOVES_NOTES.get((m.before, m.command, m.after), m.command) for m in moves)
        yield f"    {before} --> {following}: {' / '.join(names)}"
    yield from [f"    {status} --> [*]" for status in Status if status.is_terminal]


def cell(answers: set[str]) -> str:
    """Say what a command may get: events first, then nothing, then refusals."""
    return " / ".join(sorted(answers, key=lambda words: (not words.startswith("`"), words != "nothing", words)))


STATES_TEXT = """{note}
# The states of a run

Every arrow below was found by trying: the generator gives every command to a run in every status that it can come to,
folds the events that come of it, and follows where that leads.

```mermaid
stateDiagram-v2
{diagram}
```

`interrupted` is a resting state: nobody works on the run, and it may be resumed, failed or aborted. The three terminal
statuses are absorbing: the first terminal event wins, and every later attempt is refused and told who was first. Logs,
artifacts and notes are still taken from a finished run, and it can go to the recycle bin and back; none of that
changes its status. A purge ends that: the run's data is erased, and only its skeleton stays.

Apart from the status stand the **verdict** (what results and gates say), the phase, the attempt, and whether an abort
was asked for. A run may complete with a failed verdict, unless its kind says otherwise.

## Moves

| from | command | events | to |
| --- | --- | --- | --- |
{moves}

## Every command in every status

An event's name: it is appended. *nothing*: what was asked for is so already. A capitalised name: the error of the
refusal. More than one: it depends on the arguments and on what else is known of the run. In the API a command that
gets `RunClosed` or `RunTaken` returns an outcome that is false and holds the event that was first.

| command | {statuses} |
| {rule} |
{answers}
"""


# --- the HTTP API -----------------------------------------------------------------------------------------------


def http_page() -> str:
    operations = "\n".join(
        f"| `{operation.method} {operation.path}` | {'' if operation.scope is None else f'`{operation.scope}`'}"
        f" | {operation.summary} |"
        for operation in OPERATIONS
    )
    problems = "\n".join(f"| `{hyphenated(name)}` | {status} |" for name, status in STATUSES.items())
    return HTTP_TEXT.format(note=NOTE, operations=operations, problems=problems)


def hyphenated(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


HTTP_TEXT = """{note}
# HTTP API

`runfold serve` serves it; `schema/openapi.json` (also `GET /openapi.json`) has every field of every message. Bodies
and answers are JSON. A field, a parameter or a value that is not known is refused, not ignored.

## Operations

A token needs the scope, and `admin` is every scope. Operations without one are open.

| operation | scope | |
| --- | --- | --- |
{operations}

## Conventions

**`Authorization: Bearer rf_…`** says who asks. Without a token that works every operation answers 401; without the
scope, 403 `scope-missing`; about another project, 403 `project-refused`; and a run of another project is 404, exactly
as one that does not exist.

**`Idempotency-Key`** (a quoted string, bare, or a Display String of RFC 9651 such as `%"b%c3%bcro"`, which holds any
text): the same key with the same body gives the same run, with 200 and `Idempotency-Replayed: true`, for ever. Another
body is 422 `idempotency-mismatch`, even when the run was purged; a key that is none is 400; while the first request is
still being answered, 409 `request-in-flight`. Keys of two projects do not meet. Commands with an `event_id` are safe to
repeat with the same one.

**`ETag` and `If-Match`**: a run's ETag is its version. With `If-Match` a command is decided at that version or
refused with 412; what commutes (results, logs, notes …) takes none. `If-None-Match` on a run gives 304.

**`Runfold-Lease`**: the `lease` of a claim. What is written under a lease that went to another worker is 409
`lease-lost`.

**Pages**: a list of runs gives `next_page_token`, to be sent as `page_token` with the same filters; at most 100 a
page. History, results, logs and events give `next_after` and `more`; `limit` counts events, at most 1,000.

**Streams** are server-sent events: `id` is the position, `event` the type, `data` a CloudEvent 1.0. They resume after
`Last-Event-ID`, or `?after=`. A silent stream sends a comment every 15 s.

**`X-Request-Id`** comes back, or is made; it is the events' correlation id unless `X-Correlation-Id` is sent.
`traceparent`, `X-Causation-Id` and `Runfold-Actor` (percent-encoded) go into the events as well; correlation and
causation ids may be Display Strings. A token's name is always in the actor.

**Limits**: a body has at most 8 MiB (413, before it is read). A token may ask 1,000 times a second unless the server
says otherwise (429 with `Retry-After`). 503 with `Retry-After` means that nothing is wrong with the request. After
503 `outcome-unknown` send it again with the same key or event id.

## Problems

Every error is `application/problem+json` (RFC 9457). `code` is stable, `type` is `urn:runfold:problem:` and the code.
`detail` says what happened, why, and what next; more members tell the values, among them `winner`: the event that was
first. A code that is not in the table has the status of its family: `run-closed`, `run-taken`, `shard-superseded`,
`lease-lost`, `run-purged` and `exclusive-key-taken` are `refused`, `secret-in-input` is `invalid-input`, `store-busy`
is `store-unavailable`. Defects are 500 `internal-error`, and tell nothing of themselves but the request's id.

| code | status |
| --- | --- |
{problems}
"""


if __name__ == "__main__":
    main()
