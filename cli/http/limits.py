"""What one server process takes at most, with units in the names. What a ledger takes stands in `ledger.limits`."""

from typing import Final

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of one request: several events' worth of results. A longer body is refused before it is read."""
BODY_TIMEOUT_S: Final = 30.0
"""How long a client may take to send a body."""
PAGE_RUNS_MAX: Final = 100
PAGE_EVENTS_MAX: Final = 1_000

WRITERS: Final = 32
"""Threads that write: the ledger commits for several at once, so more of them share one commit."""
READERS: Final = 4
"""Threads that read, apart from those that write, so that a read never queues behind commits. Few, since they share one
interpreter: measured, 32 readers made p99 of a read three times as long."""
WAITING_MAX: Final = 1_024
"""Requests that wait for a thread; one more is told to come back."""

TOGETHER_MAX: Final = 256
"""Enqueues that share one commit."""

REQUESTS_PER_S: Final = 1_000.0
"""Of one token, unless the server is told otherwise; for two seconds it may save up."""
RATE_BURST_S: Final = 2.0
BUCKETS_MAX: Final = 10_000

IDENTITY_FRESH_S: Final = 1.0
"""How long a token is believed without looking again: a revoked one works no longer than this."""
IDENTITIES_MAX: Final = 10_000
ADMITTED_RUNS_MAX: Final = 50_000

SUBSCRIBERS_MAX: Final = 2_000
SUBSCRIBER_EVENTS_MAX: Final = 1_000
"""Events that wait for one slow subscriber; one more and it is cut off, to resume by position."""
SUBSCRIBER_BYTES_MAX: Final = 8 * 1024 * 1024
SUBSCRIBER_PAGE: Final = 500
"""Events that a subscriber catches up by at once."""
SEND_TIMEOUT_S: Final = 30.0
"""How long a subscriber may take nothing before it is cut off."""
FETCHES_MAX: Final = 200
"""Requests that wait for a batch of a consumer; each looks again when an event comes that it wants."""
FETCH_POLL_S: Final = 1.0
"""How often they look without one: a loan may be over."""
HEARTBEAT_S: Final = 15.0
"""How often a silent stream says that it lives. Proxies cut silent connections after 30 to 60 s."""
TAIL_RETRY_S: Final = 0.5
TAIL_AHEAD_MAX: Final = 5_000
"""Events that the tail reads ahead of the event loop."""
RECONNECT_MS: Final = 1_000
"""What subscribers are asked to wait before they come back."""
SHUTDOWN_S: Final = 10
"""How long requests under way may take once the server was told to stop."""
