"""Every size and count limit of the ledger, with its unit in the name.

A limit is checked before anything is written, at the same place for every database, and is tested at n and n + 1.
The figures come from what the source systems store and from what both databases can carry; see
`docs/reference/limits.md`.
"""

from typing import Final

# --- values inside an event -----------------------------------------------------------------------------------
INTEGER_MAX: Final = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly (RFC 8259, section 6); the smallest is its negative."""
DEPTH_MAX: Final = 64
"""Nesting levels of lists and objects in one value: JSON parsers recurse, and the first to give up decides."""
NODES_MAX: Final = 100_000
"""Values of every kind inside one input, or one result."""
INPUT_BYTES_MAX: Final = 256 * 1024
"""Canonical bytes of one run's input: what is larger belongs beside the ledger, with a reference here."""
DOCUMENT_BYTES_MAX: Final = 1_000_000
"""Canonical bytes of one document of a run: a larger one is an artifact, kept elsewhere and referred to."""
PAYLOAD_BYTES_MAX: Final = 1024 * 1024
"""Canonical bytes of one event's payload."""

# --- text ---------------------------------------------------------------------------------------------------
NAME_CHARS_MAX: Final = 200
"""Kinds, projects, workers, actors, phases, gates: what is shown in a column."""
KEY_CHARS_MAX: Final = 255
"""Idempotency keys, exclusive keys, label names and values, correlation and causation ids."""
TEXT_CHARS_MAX: Final = 4_096
"""Reasons, notes, URIs, summaries of a gate."""
URL_CHARS_MAX: Final = 2_048
"""The URL of a callback."""
ERROR_CHARS_MAX: Final = 8_192
"""An error is cut to this, its head and its tail kept: a longer one is a log."""
FAILURE_SUMMARY_CHARS_MAX: Final = 600
"""A headline is cut to this many characters (Sando's contract)."""
LOG_LINE_CHARS_MAX: Final = 16_384
"""A log line is cut to this, never refused: losing the rest of a run over one long line helps nobody."""

# --- counts -------------------------------------------------------------------------------------------------
LABELS_MAX: Final = 32
"""Labels of one `enqueue`, of one `annotate`, and of one run: a full one takes no new name until one is removed."""
PHASES_MAX: Final = 64
"""Phases that a kind declares."""
SHARDS_MAX: Final = 10_000
"""Slices of one run."""
ATTEMPTS_MAX: Final = 1_000
"""Attempts of one run, and of one shard."""
PRIORITY_MAX: Final = 1_000_000
"""Largest priority; the smallest is its negative."""
PLANNED_TESTS_MAX: Final = 20_000
"""Tests that a run plans for its shards."""
DELAY_S_MAX: Final = 2_592_000
"""Longest delay, timeout or lease: 30 days."""
TASKS_PER_CLAIM_MAX: Final = 100
"""Runs and shards that one claim takes; it also bounds how many one sweep settles at once."""
LEASE_S: Final = 60.0
"""How long a lease lasts without a heartbeat, unless the worker says otherwise."""
LEASE_S_MIN: Final = 0.1
"""The shortest lease: a heartbeat has to come through in time."""
LEASES_PER_HEARTBEAT_MAX: Final = 10_000
"""Leases that one heartbeat renews, or one look looks after."""
FINALIZATION_GRACE_S: Final = 60
"""How long somebody who executes a run without a lease has, after its last shard, to finish it before others may."""
STUCK_S: Final = 600.0
"""What makes no progress for this long is told as stuck, unless the caller says otherwise."""
FAR_AHEAD_S: Final = 86_400.0
"""What is scheduled for later than this from now likewise."""
RESULTS_PER_EVENT_MAX: Final = 1_000
"""`append_results` splits a longer list into several events of one append."""
LOG_LINES_PER_EVENT_MAX: Final = 1_000
"""`append_log` splits more lines into several events."""
ENQUEUES_MAX: Final = 10_000
"""Runs that one `enqueue_all` asks for."""
EVENTS_PER_APPEND_MAX: Final = 10_000
"""Events that are appended all or nothing."""
RESULT_STATUS_CHARS_MAX: Final = 32
"""The `status` of one result."""

# --- reading ------------------------------------------------------------------------------------------------
PAGE_EVENTS_MAX: Final = 5_000
"""Events a store hands out at once, at most; it bounds a reader's memory."""
PAGE_EVENTS: Final = 1_000
"""Events a reader asks for at once. The decoded events of a page should fit the processor's cache: measured on SQLite,
1,000 were read 1.4 times as fast as 5,000; on PostgreSQL there was little between them."""
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of one page on a database, unless a single event has more."""
TIMED_RUNS_MAX: Final = 5
"""Newest runs whose durations are read to balance the shards of the next one."""
RANKED_RUNS: Final = 50
"""Newest runs that tests are ranked over, unless the caller says otherwise."""
RANKED_RUNS_MAX: Final = 1_000
"""Most runs that tests can be ranked over."""
FACTS_MAX: Final = 100_000
"""Runs whose project, kind and labels a filtering reader remembers."""
BATCH_EVENTS: Final = 500
"""Events of one batch of a consumer, unless its reader asks for another number."""
BATCH_EVENTS_MAX: Final = 1_000
"""Most events of one batch."""
BATCH_PAGES_MAX: Final = 20
"""Pages of which nothing is wanted that one look for a batch reads, before it keeps how far it is and goes on."""
BATCH_WAIT_S_MAX: Final = 30.0
"""How long a reader can wait for a batch; proxies cut silent requests not much later."""
CONSUMERS_MAX: Final = 1_000
"""Named consumers of one ledger."""
PARTITIONS_MAX: Final = 64
"""Partitions of one consumer."""
CONSUMER_NAME_CHARS_MAX: Final = 100
"""Of a consumer's name."""
LIST_ROWS_MAX: Final = 1_000
"""Rows of one page of a list."""

# --- writing ------------------------------------------------------------------------------------------------
GROUP_REQUESTS_MAX: Final = 256
"""Appends of one process's threads that share one commit."""
OPTIMISTIC_ATTEMPTS_MAX: Final = 2
"""Conflicts a decision survives before it is made in the run's turn, where it cannot conflict again."""
ERASE_EVENTS: Final = 1_000
"""Events whose data a purge erases in one transaction, fewer where they fill more than a page: on SQLite it holds up
every writer, on PostgreSQL those of the run."""
KEY_TRIES_MAX: Final = 10
"""How many holders of an exclusive key one `enqueue` supersedes before it gives up."""
BUSY_TIMEOUT_S: Final = 30.0
"""How long a writer waits for its turn on a SQLite file before it gives up with `StoreBusy`."""
OUTAGE_S: Final = 30.0
"""How long a live reader goes on asking a database that is out of reach: a restart takes a few seconds."""
OUTAGE_PAUSE_S: Final = 0.5
"""The pause between two such questions."""
POLL_INTERVAL_S: Final = 0.05
"""How often a live reader looks by itself; wake-up hints only make it faster."""
