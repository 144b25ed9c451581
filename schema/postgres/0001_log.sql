-- The log: every event of every run.
--
-- What cannot be seen in the columns:
-- * `envelope` and `payload` are the writer's canonical bytes and are never made again. The envelope holds a salted
--   commitment to the payload, so payload and salt can be erased and what was sealed over the envelope still verifies.
-- * The hash tree over this table is built later and elsewhere, over envelope and version in the order of positions.
-- * Positions come from a plain sequence, so writers never wait for each other; `settled` tells readers how far no
--   event can appear any more. Why that holds stands above `mark_writer`.
-- * The identity's sequence must keep CACHE 1: a session that sat on cached values would use them out of order.
-- * `closes` and `fence` are what an append may have to respect of its stream: one closing event for ever, and no
--   results of an older attempt of a shard. They are facts of the event, indexed where they are rare.

CREATE TABLE runfold.events (
    position    bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id      uuid    NOT NULL,
    version     bigint  NOT NULL CHECK (version >= 1),
    event_id    uuid    NOT NULL,
    type        text    NOT NULL,
    envelope    bytea   NOT NULL,
    payload     bytea,
    salt        bytea,
    closes      boolean NOT NULL DEFAULT false,
    fence       text,
    fence_epoch integer,
    CHECK ((payload IS NULL) = (salt IS NULL)),
    CHECK ((fence IS NULL) = (fence_epoch IS NULL))
);

CREATE UNIQUE INDEX events_run_version ON runfold.events (run_id, version);

CREATE UNIQUE INDEX events_event_id ON runfold.events (event_id);

CREATE UNIQUE INDEX events_one_closing ON runfold.events (run_id) WHERE closes;

CREATE INDEX events_fence ON runfold.events (run_id, fence, fence_epoch) WHERE fence IS NOT NULL;

-- An append-only table is never vacuumed for dead rows; without this its index-only scans would decay.
ALTER TABLE runfold.events SET (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE FUNCTION runfold.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        -- The one change that is ever allowed: erasing payload and salt together, everything else as it was.
        IF NEW.payload IS NULL AND NEW.salt IS NULL
            AND (NEW.position, NEW.run_id, NEW.version, NEW.event_id, NEW.type, NEW.envelope, NEW.closes)
                = (OLD.position, OLD.run_id, OLD.version, OLD.event_id, OLD.type, OLD.envelope, OLD.closes)
            AND NEW.fence IS NOT DISTINCT FROM OLD.fence
            AND NEW.fence_epoch IS NOT DISTINCT FROM OLD.fence_epoch
        THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'runfold: an event is never changed; only its payload and salt can be erased, both together';
    END IF;
    RAISE EXCEPTION 'runfold: an event is never deleted';
END
$$;

CREATE TRIGGER events_refuse_change
BEFORE UPDATE OR DELETE ON runfold.events
FOR EACH ROW EXECUTE FUNCTION runfold.refuse_change();

CREATE TRIGGER events_refuse_truncate
BEFORE TRUNCATE ON runfold.events
FOR EACH STATEMENT EXECUTE FUNCTION runfold.refuse_change();

-- ALWAYS: also for a session that calls itself a replica.
ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_refuse_change;
ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_refuse_truncate;

-- How a reader misses nothing although positions are committed out of order.
--
-- A writer first reads the newest position L that anybody was given, then takes a shared lock whose key is L, and only
-- then is given positions of its own, all of them above L. The lock is given back when its transaction has ended, that
-- is, after its rows became visible or are gone.
-- A reader reads the newest position H, then the lowest key M among the locks held, and may read up to S = min(H, M);
-- it reads the rows in a later statement, so with a later snapshot.
-- No row at or below S can appear afterwards: let W be a writer of such a row. If W's lock was seen, its L >= M >= S,
-- and its rows are above L: contradiction. If it was not seen because it was given back, W's rows are visible. If it was
-- not seen because it was not yet taken, W was given its positions after the reader read H: they are above H >= S.
-- Both orders matter: H before M here, L before the lock there. Rollbacks leave holes, and nobody waits for a hole.
--
-- It is a trigger of the statement, so that whatever inserts (COPY and plain INSERT too) is marked.
-- 82 (R) is the name space; positions have 55 bits.
CREATE FUNCTION runfold.mark_writer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(
        82::bigint << 55 | coalesce(pg_sequence_last_value('runfold.events_position_seq'::regclass), 0)
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER events_mark_writer
BEFORE INSERT ON runfold.events
FOR EACH STATEMENT EXECUTE FUNCTION runfold.mark_writer();

ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_mark_writer;

-- Gives the newest position that anybody was given, and the position up to which everything is settled.
-- A reader remembers positions of events that it read, never these: after a crash the sequence can go back over
-- positions that nobody committed.
CREATE FUNCTION runfold.settled(OUT given bigint, OUT settled bigint) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lowest bigint;
BEGIN
    given := coalesce(pg_sequence_last_value('runfold.events_position_seq'::regclass), 0);
    SELECT min((classid::bigint << 32 | objid::bigint) & ((1::bigint << 55) - 1))
    INTO lowest
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND objsubid = 1
        AND classid::bigint >> 23 = 82
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    settled := least(given, lowest);
END
$$;

-- Keys that one run at a time may hold. An idempotency key stays for ever, a purged run's too; an exclusive key is
-- given back by the run's closing event, in the same transaction.
CREATE TABLE runfold.keys (
    space        text    NOT NULL,
    project      text    NOT NULL,
    key          text    NOT NULL,
    run_id       uuid    NOT NULL,
    fingerprint  text    NOT NULL,
    until_closed boolean NOT NULL,
    PRIMARY KEY (space, project, key)
);

CREATE INDEX keys_until_closed ON runfold.keys (run_id) WHERE until_closed;

-- Takes a run's turn: its appends follow one another, those of other runs go on. The key is the last four bytes of the
-- id; that two runs may share one costs them a wait, nothing else. 82 tells the ledger's locks from others'.
CREATE FUNCTION runfold.take_turn(p_run uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(82, ('x' || right(p_run::text, 8))::bit(32)::integer);
END
$$;

-- Takes the run's turn and tells whether an append is accepted: `ok`, or why not, with the version of the stream and
-- the newest thing that stands in the way.
CREATE FUNCTION runfold.guard(
    p_run uuid, p_rule text, p_version bigint, p_fence text, p_epoch integer, p_closes boolean,
    OUT outcome text, OUT version bigint, OUT newest bigint
) LANGUAGE plpgsql AS $$
DECLARE
    closed bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(82, ('x' || right(p_run::text, 8))::bit(32)::integer);
    version := coalesce((SELECT e.version FROM runfold.events e WHERE e.run_id = p_run ORDER BY e.version DESC LIMIT 1), 0);
    outcome := 'ok';
    IF p_rule = 'unless_closed' OR p_rule = 'exists' THEN
        IF version = 0 THEN
            outcome := 'not_found';
            RETURN;
        END IF;
    ELSIF p_rule <> 'any' AND version <> p_version THEN
        outcome := 'conflict';
        RETURN;
    END IF;
    IF version > 0 AND (p_closes OR p_rule = 'unless_closed') THEN
        SELECT e.version INTO closed FROM runfold.events e WHERE e.run_id = p_run AND e.closes;
        IF FOUND THEN
            outcome := 'closed';
            newest := closed;
            RETURN;
        END IF;
    END IF;
    IF p_fence IS NOT NULL THEN
        newest := (SELECT max(e.fence_epoch) FROM runfold.events e WHERE e.run_id = p_run AND e.fence = p_fence);
        IF newest > p_epoch THEN
            outcome := 'superseded';
        END IF;
    END IF;
END
$$;

-- Appends one event: guard and insert in one round trip.
CREATE FUNCTION runfold.append_one(
    p_run uuid, p_rule text, p_version bigint, p_fence text, p_epoch integer,
    p_event_id uuid, p_type text, p_envelope bytea, p_payload bytea, p_salt bytea,
    p_closes boolean, p_raises text, p_raises_epoch integer,
    OUT outcome text, OUT version bigint, OUT newest bigint, OUT "position" bigint
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT g.outcome, g.version, g.newest
    INTO outcome, version, newest
    FROM runfold.guard(p_run, p_rule, p_version, p_fence, p_epoch, p_closes) g;
    IF outcome <> 'ok' THEN
        RETURN;
    END IF;
    version := version + 1;
    INSERT INTO runfold.events AS e
        (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)
    VALUES
        (p_run, append_one.version, p_event_id, p_type, p_envelope, p_payload, p_salt, p_closes, p_raises, p_raises_epoch)
    RETURNING e.position INTO "position";
    IF p_closes THEN
        DELETE FROM runfold.keys WHERE run_id = p_run AND until_closed;
    END IF;
END
$$;
