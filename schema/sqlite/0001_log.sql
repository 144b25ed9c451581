-- The log: every event of every run, in the order in which they were committed.
--
-- What cannot be seen in the columns:
-- * `envelope` and `payload` are the writer's canonical bytes and are never made again. The envelope holds a salted
--   commitment to the payload, so payload and salt can be erased and what was sealed over the envelope still verifies.
-- * The hash tree over this table is built later and elsewhere, over envelope and version in the order of positions.
-- * AUTOINCREMENT, so that a position is never given twice, not even after a file was tampered with.
-- * `closes` and `fence` are what an append may have to respect of its stream: one closing event for ever, and no
--   results of an older attempt of a shard. They are facts of the event, indexed where they are rare.

CREATE TABLE schema_migrations (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at TEXT NOT NULL
) STRICT;

CREATE TABLE events (
    position    INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id      TEXT    NOT NULL CHECK (length(run_id) = 36),
    version     INTEGER NOT NULL CHECK (version >= 1),
    event_id    TEXT    NOT NULL CHECK (length(event_id) = 36),
    type        TEXT    NOT NULL,
    envelope    BLOB    NOT NULL,
    payload     BLOB,
    salt        BLOB,
    closes      INTEGER NOT NULL DEFAULT 0 CHECK (closes IN (0, 1)),
    fence       TEXT,
    fence_epoch INTEGER,
    CHECK ((payload IS NULL) = (salt IS NULL)),
    CHECK ((fence IS NULL) = (fence_epoch IS NULL))
) STRICT;

CREATE UNIQUE INDEX events_run_version ON events (run_id, version);

CREATE UNIQUE INDEX events_event_id ON events (event_id);

CREATE UNIQUE INDEX events_one_closing ON events (run_id) WHERE closes = 1;

CREATE INDEX events_fence ON events (run_id, fence, fence_epoch) WHERE fence IS NOT NULL;

-- REPLACE deletes the rows that are in its way without firing delete triggers (recursive_triggers is off, and is a
-- setting of the connection), so what is in the way must be refused before the insert.
CREATE TRIGGER events_refuse_overwrite
BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)
    OR EXISTS (SELECT 1 FROM events WHERE run_id = NEW.run_id AND version = NEW.version)
    OR EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
    OR (NEW.closes = 1 AND EXISTS (SELECT 1 FROM events WHERE run_id = NEW.run_id AND closes = 1))
BEGIN
    SELECT RAISE(ABORT, 'runfold: an event is never overwritten');
END;

CREATE TRIGGER events_refuse_delete
BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'runfold: an event is never deleted');
END;

-- The one change that is ever allowed: erasing payload and salt together, everything else as it was.
CREATE TRIGGER events_refuse_update
BEFORE UPDATE ON events
WHEN NOT (
    NEW.payload IS NULL
    AND NEW.salt IS NULL
    AND NEW.position = OLD.position
    AND NEW.run_id = OLD.run_id
    AND NEW.version = OLD.version
    AND NEW.event_id = OLD.event_id
    AND NEW.type = OLD.type
    AND NEW.envelope = OLD.envelope
    AND NEW.closes = OLD.closes
    AND NEW.fence IS OLD.fence
    AND NEW.fence_epoch IS OLD.fence_epoch
)
BEGIN
    SELECT RAISE(ABORT, 'runfold: an event is never changed; only its payload and salt can be erased, both together');
END;

-- Keys that one run at a time may hold. An idempotency key stays for ever, a purged run's too; an exclusive key is
-- given back by the run's closing event, in the same transaction.
CREATE TABLE keys (
    space        TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    run_id       TEXT    NOT NULL,
    fingerprint  TEXT    NOT NULL,
    until_closed INTEGER NOT NULL CHECK (until_closed IN (0, 1)),
    PRIMARY KEY (space, project, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX keys_until_closed ON keys (run_id) WHERE until_closed = 1;
