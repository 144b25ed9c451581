-- Calls to others when runs end. The log is the truth; these tables say how far it was gone through, and what became of
-- each call. The secrets are needed as they are, to sign with: whoever reads this file can sign.

CREATE TABLE callbacks (
    callback_id    TEXT NOT NULL PRIMARY KEY,
    url            TEXT NOT NULL,
    project        TEXT, -- NULL is every project, and runs of none
    kind           TEXT, -- NULL is every kind
    secret         TEXT NOT NULL,
    after_position INTEGER NOT NULL, -- runs that ended up to here do not concern it
    created_at     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    position INTEGER NOT NULL, -- up to here, deliveries were made of what the log says
    secret   TEXT -- signs the callbacks that runs bring themselves
) STRICT;

CREATE TABLE deliveries (
    event_id   TEXT    NOT NULL, -- the terminal event that causes it
    sink       TEXT    NOT NULL, -- a callback's id, or `run`
    run_id     TEXT    NOT NULL,
    version    INTEGER NOT NULL, -- of the event
    position   INTEGER NOT NULL, -- likewise
    url        TEXT    NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts   INTEGER NOT NULL, -- begun; it is the fencing token of whoever made the latest
    due_at     REAL    NOT NULL, -- seconds since 1970: of the next attempt, unless the latest ends before
    last_error TEXT,
    PRIMARY KEY (event_id, sink)
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state = 'pending';

CREATE INDEX deliveries_settled ON deliveries (state, due_at) WHERE state <> 'pending';

CREATE INDEX deliveries_run ON deliveries (run_id);
