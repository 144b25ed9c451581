"""The stored bytes of every event type, as they were first written.

`python tests/rules/golden_files.py` writes the files of events that have none yet. A file that is there is never
changed: its bytes stand in somebody's log. When a payload changes, its old file stays and the new schema version gets
a new one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from builders import BARE, FULL, NOON, RUN, an_event_id

from ledger.events import NewEvent
from ledger.run.codec import Context, to_new_events
from ledger.run.events import RunEvent

FOLDER = Path(__file__).parent / "golden"
SALT = bytes(range(32))
CONTEXT = Context(
    actor="ci@web",
    correlation_id="request-7",
    causation_id="0192f3a0-0000-7000-9000-0000000000ff",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def written(event: RunEvent, *, is_full: bool) -> NewEvent:
    """Write one event as today's code does."""
    [made] = to_new_events(
        [event],
        run_id=RUN,
        recorded_at=NOON,
        event_ids=[an_event_id(1)],
        salts=[SALT],
        context=CONTEXT if is_full else Context(),
    )
    return made


def golden_bytes(tag: str) -> bytes:
    """Give a golden file's content by today's code: envelope and payload of the full event, then of the bare one."""
    full, bare = written(FULL[tag], is_full=True), written(BARE[tag], is_full=False)
    return b"%b\n%b\n%b\n%b\n" % (full.envelope, full.payload, bare.envelope, bare.payload)


def main() -> None:
    for tag in FULL:
        path = FOLDER / f"{tag}.jsonl"
        if not path.exists():
            path.write_bytes(golden_bytes(tag))
            print(path)


if __name__ == "__main__":
    main()
