-- Calls to others when runs end. The log is the truth; these tables say how far it was gone through, and what became of
-- each call. The secrets are needed as they are, to sign with: whoever reads these tables can sign.

CREATE TABLE runfold.callbacks (
    callback_id    text COLLATE "C" NOT NULL PRIMARY KEY,
    url            text COLLATE "C" NOT NULL,
    project        text COLLATE "C", -- NULL is every project, and runs of none
    kind           text COLLATE "C", -- NULL is every kind
    secret         text COLLATE "C" NOT NULL,
    after_position bigint NOT NULL, -- runs that ended up to here do not concern it
    created_at     text COLLATE "C" NOT NULL
);

CREATE TABLE runfold.outbox (
    only_row integer NOT NULL PRIMARY KEY CHECK (only_row = 1),
    position bigint NOT NULL, -- up to here, deliveries were made of what the log says
    secret   text COLLATE "C" -- signs the callbacks that runs bring themselves
);

CREATE TABLE runfold.deliveries (
    event_id   text COLLATE "C" NOT NULL, -- the terminal event that causes it
    sink       text COLLATE "C" NOT NULL, -- a callback's id, or `run`
    run_id     text COLLATE "C" NOT NULL,
    version    bigint NOT NULL, -- of the event
    position   bigint NOT NULL, -- likewise
    url        text COLLATE "C" NOT NULL,
    state      text COLLATE "C" NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts   integer NOT NULL, -- begun; it is the fencing token of whoever made the latest
    due_at     double precision NOT NULL, -- seconds since 1970: of the next attempt, unless the latest ends before
    last_error text COLLATE "C",
    PRIMARY KEY (event_id, sink)
);

CREATE INDEX deliveries_due ON runfold.deliveries (due_at) WHERE state = 'pending';

CREATE INDEX deliveries_settled ON runfold.deliveries (state, due_at) WHERE state <> 'pending';

CREATE INDEX deliveries_run ON runfold.deliveries (run_id);
