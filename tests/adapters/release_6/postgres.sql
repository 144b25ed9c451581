-- PostgreSQL database dump

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

CREATE SCHEMA runfold;

CREATE FUNCTION runfold.append_one(p_run uuid, p_rule text, p_version bigint, p_fence text, p_epoch integer, p_event_id uuid, p_type text, p_envelope bytea, p_payload bytea, p_salt bytea, p_closes boolean, p_raises text, p_raises_epoch integer, OUT outcome text, OUT version bigint, OUT newest bigint, OUT "position" bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION runfold.claim_tasks(p_kinds text[], p_limit integer) RETURNS TABLE(run_id uuid, shard integer, kind text, project text, attempt integer, is_finalizing boolean, is_scheduled boolean, is_started boolean, run_attempt integer, version bigint, first_position bigint, first_envelope bytea, first_payload bytea)
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
DECLARE
    task record;
    run runfold.tasks;
    taken integer := 0;
BEGIN
    PERFORM runfold.promote_tasks();
    p_kinds := coalesce(p_kinds, runfold.waiting_kinds());
    FOR task IN
        SELECT f.*
        FROM unnest(p_kinds) AS wanted (kind)
        CROSS JOIN LATERAL (
            SELECT t.run_id, t.shard, t.kind, t.project, t.priority, t.enqueued, t.attempt, t.is_finalizing,
                t.available_at, t.token
            FROM runfold.tasks t
            WHERE t.state = 'waiting' AND t.kind = wanted.kind
            ORDER BY t.priority DESC, t.enqueued, t.shard
            LIMIT p_limit
            FOR UPDATE SKIP LOCKED
        ) AS f
        ORDER BY f.priority DESC, f.enqueued, f.shard
    LOOP
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(82, ('x' || right(task.run_id::text, 8))::bit(32)::integer);
        IF task.shard >= 0 THEN
            SELECT * INTO run FROM runfold.tasks r WHERE r.run_id = task.run_id AND r.shard = -1 FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
        END IF;
        run_id := task.run_id;
        shard := task.shard;
        kind := task.kind;
        project := task.project;
        attempt := task.attempt;
        is_finalizing := task.is_finalizing;
        is_scheduled := task.available_at IS NOT NULL;
        is_started := CASE WHEN task.shard >= 0 THEN run.token IS NOT NULL ELSE task.token IS NOT NULL END;
        run_attempt := CASE WHEN task.shard >= 0 THEN run.attempt ELSE task.attempt END;
        SELECT e.version INTO version FROM runfold.events e WHERE e.run_id = task.run_id ORDER BY e.version DESC LIMIT 1;
        SELECT e.position, e.envelope, e.payload
        INTO first_position, first_envelope, first_payload
        FROM runfold.events e
        WHERE e.run_id = task.run_id AND e.version = 1;
        RETURN NEXT;
        taken := taken + 1;
        EXIT WHEN taken >= p_limit;
    END LOOP;
END
$$;

CREATE FUNCTION runfold.follow_event() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    grace CONSTANT interval := '60 s';
    said jsonb;
    later timestamptz;
    run runfold.tasks;
    lease interval;
BEGIN
    IF NEW.closes THEN
        DELETE FROM runfold.tasks WHERE run_id = NEW.run_id AND shard = -1 RETURNING shard_count INTO run.shard_count;
        IF run.shard_count IS NOT NULL THEN
            PERFORM 1 FROM runfold.tasks WHERE run_id = NEW.run_id ORDER BY shard FOR UPDATE;
            DELETE FROM runfold.tasks WHERE run_id = NEW.run_id;
        END IF;
        RETURN NULL;
    END IF;
    IF NEW.type = 'started' AND current_setting('runfold.lends', true) = 'yes' THEN
        RETURN NULL; -- `lend_runs` appended it, and moved the task itself
    END IF;
    said := convert_from(NEW.payload, 'UTF8')::jsonb;
    IF NEW.type = 'enqueued' THEN
        later := said->>'not_before';
        IF later <= (said->>'enqueued_at')::timestamptz THEN
            later := NULL;
        END IF;
        INSERT INTO runfold.tasks
            (run_id, shard, kind, project, priority, enqueued, state, available_at, attempt, shard_count, shards_left)
        VALUES (
            NEW.run_id, -1, said->>'kind', said->>'project', coalesce((said->>'priority')::integer, 0), NEW.position,
            CASE WHEN said ? 'shard_count' THEN 'idle' WHEN later IS NULL THEN 'waiting' ELSE 'scheduled' END,
            later, 0, (said->>'shard_count')::integer, (said->>'shard_count')::integer
        )
        ON CONFLICT DO NOTHING;
        IF said ? 'shard_count' THEN
            PERFORM runfold.lay_out_shards(
                NEW.run_id, CASE WHEN later IS NULL THEN 'waiting' ELSE 'scheduled' END, later
            );
        END IF;
        RETURN NULL;
    END IF;
    SELECT * INTO run FROM runfold.tasks WHERE run_id = NEW.run_id AND shard = -1 FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- a claim says in its transaction how long its leases last
    lease := nullif(current_setting('runfold.lease', true), '')::interval;
    CASE NEW.type
        WHEN 'started' THEN
            IF run.shard_count IS NOT NULL AND (said->>'attempt')::integer > 1 THEN
                PERFORM runfold.lay_out_shards(NEW.run_id, 'waiting', NULL);
            END IF;
            IF coalesce((said->>'by_shard')::boolean, false) THEN
                UPDATE runfold.tasks
                SET state = 'idle', attempt = (said->>'attempt')::integer, by_shard = true, is_finalizing = false,
                    token = NEW.version, worker = said->>'worker', deadline = NULL, available_at = NULL, since = now()
                WHERE run_id = NEW.run_id AND shard = -1;
            ELSE
                UPDATE runfold.tasks
                SET state = 'held', attempt = CASE WHEN shard = -1 THEN (said->>'attempt')::integer ELSE attempt END,
                    by_shard = false, is_finalizing = false, available_at = NULL, since = now(),
                    token = NEW.version, worker = said->>'worker', deadline = now() + lease
                WHERE run_id = NEW.run_id;
            END IF;
        WHEN 'resumed' THEN
            IF run.by_shard THEN
                UPDATE runfold.tasks
                SET state = CASE WHEN shard = -1 THEN 'idle' ELSE 'waiting' END, since = now()
                WHERE run_id = NEW.run_id AND state = 'held';
                UPDATE runfold.tasks
                SET token = NEW.version, worker = said->>'worker', is_finalizing = false
                WHERE run_id = NEW.run_id AND shard = -1;
                PERFORM runfold.offer_finalization(NEW.run_id, grace);
            ELSE
                UPDATE runfold.tasks
                SET state = 'held', token = NEW.version, worker = said->>'worker', deadline = NULL, since = now()
                WHERE run_id = NEW.run_id;
            END IF;
        WHEN 'shard_started' THEN
            UPDATE runfold.tasks
            SET state = 'held', attempt = coalesce((said->>'shard_attempt')::integer, 1),
                token = coalesce((said->>'shard_attempt')::integer, 1),
                worker = said->>'worker', deadline = now() + lease, available_at = NULL, since = now()
            WHERE run_id = NEW.run_id AND shard = (said->>'shard')::integer;
        WHEN 'shard_completed' THEN
            IF said->>'shard' IS NOT NULL THEN
                DELETE FROM runfold.tasks
                WHERE run_id = NEW.run_id
                    AND shard = (said->>'shard')::integer
                    AND attempt <= coalesce((said->>'shard_attempt')::integer, 1);
            END IF;
            IF said->>'shard' IS NULL OR FOUND THEN
                UPDATE runfold.tasks SET shards_left = shards_left - 1 WHERE run_id = NEW.run_id AND shard = -1;
                PERFORM runfold.offer_finalization(NEW.run_id, grace);
            END IF;
        WHEN 'shard_retried' THEN
            IF run.shard_count IS NULL THEN
                RETURN NULL;
            END IF;
            later := said->>'retry_at';
            UPDATE runfold.tasks
            SET attempt = (said->>'shard_attempt')::integer, token = NULL, worker = NULL, deadline = NULL,
                available_at = later, since = now(),
                state = CASE
                    WHEN run.state = 'held' THEN 'held' WHEN later IS NULL THEN 'waiting' ELSE 'scheduled'
                END
            WHERE run_id = NEW.run_id AND shard = (said->>'shard')::integer;
            IF NOT FOUND THEN
                INSERT INTO runfold.tasks
                    (run_id, shard, kind, project, priority, enqueued, state, available_at, attempt,
                    abort_requested, abort_by)
                VALUES (
                    NEW.run_id, (said->>'shard')::integer, run.kind, run.project, run.priority, run.enqueued,
                    CASE
                        WHEN run.token IS NOT NULL AND NOT run.by_shard THEN 'held'
                        WHEN later IS NULL THEN 'waiting'
                        ELSE 'scheduled'
                    END,
                    later, (said->>'shard_attempt')::integer, run.abort_requested, run.abort_by
                );
                UPDATE runfold.tasks
                SET shards_left = shards_left + 1, is_finalizing = false, deadline = NULL, available_at = NULL,
                    state = CASE WHEN run.token IS NOT NULL AND NOT run.by_shard THEN 'held' ELSE 'idle' END
                WHERE run_id = NEW.run_id AND shard = -1;
            END IF;
        WHEN 'attempt_failed' THEN
            later := said->>'retry_at';
            UPDATE runfold.tasks
            SET token = NULL, worker = NULL, deadline = NULL, available_at = later, is_finalizing = false,
                by_shard = false, since = now(),
                state = CASE
                    WHEN shard_count IS NOT NULL THEN 'idle' WHEN later IS NULL THEN 'waiting' ELSE 'scheduled'
                END
            WHERE run_id = NEW.run_id AND shard = -1;
            IF run.shard_count IS NOT NULL THEN
                PERFORM runfold.lay_out_shards(
                    NEW.run_id, CASE WHEN later IS NULL THEN 'waiting' ELSE 'scheduled' END, later
                );
            END IF;
        WHEN 'interrupted' THEN
            UPDATE runfold.tasks
            SET state = 'held', worker = NULL, deadline = NULL, available_at = NULL, since = now()
            WHERE run_id = NEW.run_id;
        WHEN 'released' THEN
            UPDATE runfold.tasks
            SET state = 'waiting', available_at = NULL, since = now()
            WHERE run_id = NEW.run_id AND state = 'scheduled';
        WHEN 'abort_requested' THEN
            UPDATE runfold.tasks
            SET abort_requested = true, abort_by = coalesce(abort_by, (said->>'deadline')::timestamptz)
            WHERE run_id = NEW.run_id;
        WHEN 'finalization_started' THEN
            UPDATE runfold.tasks
            SET is_finalizing = true, token = NEW.version, worker = said->>'worker', since = now(),
                state = CASE WHEN lease IS NULL THEN 'scheduled' ELSE 'held' END,
                available_at = CASE WHEN lease IS NULL THEN now() + grace END,
                deadline = now() + lease
            WHERE run_id = NEW.run_id AND shard = -1 AND shards_left <= 0;
    END CASE;
    RETURN NULL;
END
$$;

CREATE FUNCTION runfold.guard(p_run uuid, p_rule text, p_version bigint, p_fence text, p_epoch integer, p_closes boolean, OUT outcome text, OUT version bigint, OUT newest bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
    IF p_rule = 'exists' AND EXISTS (SELECT FROM runfold.events e WHERE e.run_id = p_run AND e.fence = 'purge') THEN
        outcome := 'purged';
        RETURN;
    END IF;
    IF p_fence IS NOT NULL THEN
        newest := (SELECT max(e.fence_epoch) FROM runfold.events e WHERE e.run_id = p_run AND e.fence = p_fence);
        IF newest > p_epoch THEN
            outcome := 'superseded';
        END IF;
    END IF;
END
$$;

CREATE FUNCTION runfold.lay_out_shards(p_run uuid, p_state text, p_available_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    DELETE FROM runfold.tasks WHERE run_id = p_run AND shard >= 0;
    INSERT INTO runfold.tasks
        (run_id, shard, kind, project, priority, enqueued, state, available_at, attempt, abort_requested, abort_by)
    SELECT t.run_id, s.shard, t.kind, t.project, t.priority, t.enqueued, p_state, p_available_at, 1,
        t.abort_requested, t.abort_by
    FROM runfold.tasks t
    CROSS JOIN LATERAL generate_series(0, t.shard_count - 1) AS s (shard)
    WHERE t.run_id = p_run AND t.shard = -1;
    UPDATE runfold.tasks SET shards_left = shard_count WHERE run_id = p_run AND shard = -1;
END
$$;

CREATE FUNCTION runfold.lend_runs(p_kinds text[], p_limit integer, p_lease_s double precision, p_worker text, p_event_ids uuid[], p_salts bytea[], p_payload text[], p_envelope text[]) RETURNS TABLE(run_id uuid, attempt integer, version bigint, "position" bigint, deadline timestamp with time zone, first_position bigint, first_envelope bytea, first_payload bytea)
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
DECLARE
    task record;
    said bytea;
    taken integer := 0;
BEGIN
    IF EXISTS (SELECT 1 FROM runfold.tasks d WHERE d.state = 'scheduled' AND d.available_at <= now()) THEN
        PERFORM runfold.promote_tasks();
    END IF;
    p_kinds := coalesce(p_kinds, runfold.waiting_kinds());
    PERFORM set_config('runfold.lends', 'yes', true);
    deadline := now() + p_lease_s * interval '1 s';
    FOR task IN
        SELECT f.*
        FROM unnest(p_kinds) AS wanted (kind)
        CROSS JOIN LATERAL (
            SELECT t.run_id, t.shard, t.priority, t.enqueued, t.attempt, t.is_finalizing, t.available_at
            FROM runfold.tasks t
            WHERE t.state = 'waiting' AND t.kind = wanted.kind
            ORDER BY t.priority DESC, t.enqueued, t.shard
            LIMIT p_limit
            FOR UPDATE SKIP LOCKED
        ) AS f
        ORDER BY f.priority DESC, f.enqueued, f.shard
    LOOP
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(82, ('x' || right(task.run_id::text, 8))::bit(32)::integer);
        IF task.shard >= 0 OR task.is_finalizing OR task.available_at IS NOT NULL THEN
            run_id := NULL;
            RETURN NEXT;
            EXIT;
        END IF;
        taken := taken + 1;
        run_id := task.run_id;
        attempt := task.attempt + 1;
        SELECT e.version + 1 INTO version FROM runfold.events e WHERE e.run_id = task.run_id ORDER BY e.version DESC LIMIT 1;
        SELECT e.position, e.envelope, e.payload
        INTO first_position, first_envelope, first_payload
        FROM runfold.events e
        WHERE e.run_id = task.run_id AND e.version = 1;
        said := convert_to(p_payload[1] || attempt || p_payload[2], 'UTF8');
        INSERT INTO runfold.events AS e
            (run_id, version, event_id, type, envelope, payload, salt, fence, fence_epoch)
        VALUES (
            task.run_id, lend_runs.version, p_event_ids[taken], 'started',
            convert_to(
                p_envelope[1] || encode(sha256(p_salts[taken] || said), 'hex') || p_envelope[2] || p_event_ids[taken]
                || p_envelope[3] || task.run_id || p_envelope[4],
                'UTF8'
            ),
            said, p_salts[taken], 'lease', lend_runs.version
        )
        RETURNING e.position INTO "position";
        UPDATE runfold.tasks t
        SET state = 'held', attempt = lend_runs.attempt, token = lend_runs.version, worker = p_worker,
            deadline = lend_runs.deadline, since = now()
        WHERE t.run_id = task.run_id AND t.shard = -1;
        RETURN NEXT;
        EXIT WHEN taken >= p_limit;
    END LOOP;
END
$$;

CREATE FUNCTION runfold.mark_writer() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(
        82::bigint << 55 | coalesce(pg_sequence_last_value('runfold.events_position_seq'::regclass), 0)
    );
    RETURN NULL;
END
$$;

CREATE FUNCTION runfold.offer_finalization(p_run uuid, p_grace interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE runfold.tasks
    SET is_finalizing = true,
        state = CASE WHEN by_shard THEN 'waiting' ELSE 'scheduled' END,
        available_at = CASE WHEN by_shard THEN NULL ELSE now() + p_grace END,
        deadline = NULL,
        since = now()
    WHERE run_id = p_run AND shard = -1 AND shards_left <= 0 AND attempt > 0 AND NOT is_finalizing;
END
$$;

CREATE FUNCTION runfold.promote_tasks() RETURNS void
    LANGUAGE sql
    AS $$
    UPDATE runfold.tasks t
    SET state = 'waiting'
    FROM (
        SELECT d.run_id, d.shard
        FROM runfold.tasks d
        WHERE d.state = 'scheduled' AND d.available_at <= now()
        ORDER BY d.available_at
        LIMIT 100
        FOR UPDATE SKIP LOCKED
    ) due
    WHERE t.run_id = due.run_id AND t.shard = due.shard;
$$;

CREATE FUNCTION runfold.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION runfold.settled(OUT given bigint, OUT settled bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION runfold.take_turn(p_run uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(82, ('x' || right(p_run::text, 8))::bit(32)::integer);
END
$$;

CREATE FUNCTION runfold.waiting_kinds() RETURNS text[]
    LANGUAGE sql STABLE
    AS $$
    WITH RECURSIVE known (kind) AS (
        (SELECT t.kind FROM runfold.tasks t WHERE t.state = 'waiting' ORDER BY t.kind LIMIT 1)
        UNION ALL
        SELECT (
            SELECT t.kind FROM runfold.tasks t WHERE t.state = 'waiting' AND t.kind > known.kind ORDER BY t.kind LIMIT 1
        )
        FROM known
        WHERE known.kind IS NOT NULL
    )
    SELECT array_agg(k.kind) FROM known k WHERE k.kind IS NOT NULL
$$;

SET default_tablespace = '';

SET default_table_access_method = heap;

CREATE TABLE runfold.access_tokens (
    token_id text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    secret_hash text NOT NULL COLLATE pg_catalog."C",
    scopes text NOT NULL COLLATE pg_catalog."C",
    projects text COLLATE pg_catalog."C",
    created_at text NOT NULL COLLATE pg_catalog."C",
    expires_at text COLLATE pg_catalog."C",
    revoked_at text COLLATE pg_catalog."C"
);

CREATE TABLE runfold.document_runs (
    generation bigint NOT NULL,
    run_id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    kind text NOT NULL COLLATE pg_catalog."C",
    project text COLLATE pg_catalog."C",
    created_at text NOT NULL COLLATE pg_catalog."C",
    deleted_at text COLLATE pg_catalog."C",
    row_count bigint NOT NULL,
    state bytea NOT NULL
)
WITH (fillfactor='80');

CREATE TABLE runfold.documents (
    generation bigint NOT NULL,
    run_id text NOT NULL COLLATE pg_catalog."C",
    number bigint NOT NULL,
    part bigint NOT NULL,
    kind text NOT NULL COLLATE pg_catalog."C",
    project text COLLATE pg_catalog."C",
    created_at text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    is_empty bigint NOT NULL,
    data bytea NOT NULL
);

CREATE TABLE runfold.events (
    "position" bigint NOT NULL,
    run_id uuid NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    envelope bytea NOT NULL,
    payload bytea,
    salt bytea,
    closes boolean DEFAULT false NOT NULL,
    fence text,
    fence_epoch integer,
    CONSTRAINT events_check CHECK (((payload IS NULL) = (salt IS NULL))),
    CONSTRAINT events_check1 CHECK (((fence IS NULL) = (fence_epoch IS NULL))),
    CONSTRAINT events_version_check CHECK ((version >= 1))
)
WITH (autovacuum_vacuum_insert_scale_factor='0.05', autovacuum_analyze_scale_factor='0.05');

ALTER TABLE runfold.events ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME runfold.events_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE runfold.keys (
    space text NOT NULL,
    project text NOT NULL,
    key text NOT NULL,
    run_id uuid NOT NULL,
    fingerprint text NOT NULL,
    until_closed boolean NOT NULL
);

CREATE TABLE runfold.projections (
    name text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    generation bigint NOT NULL,
    "position" bigint NOT NULL,
    building bigint,
    CONSTRAINT projections_generation_check CHECK ((generation >= 1)),
    CONSTRAINT projections_position_check CHECK (("position" >= 0))
)
WITH (fillfactor='50');

CREATE TABLE runfold.result_runs (
    generation bigint NOT NULL,
    run_id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    kind text NOT NULL COLLATE pg_catalog."C",
    project text COLLATE pg_catalog."C",
    created_at text NOT NULL COLLATE pg_catalog."C",
    deleted_at text COLLATE pg_catalog."C",
    row_count bigint NOT NULL,
    state bytea NOT NULL
)
WITH (fillfactor='80');

CREATE TABLE runfold.results (
    generation bigint NOT NULL,
    run_id text NOT NULL COLLATE pg_catalog."C",
    number bigint NOT NULL,
    part bigint NOT NULL,
    kind text NOT NULL COLLATE pg_catalog."C",
    project text COLLATE pg_catalog."C",
    created_at text NOT NULL COLLATE pg_catalog."C",
    shard_attempt bigint NOT NULL,
    sequence bigint,
    test bytea,
    test_id text COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    outcome text NOT NULL COLLATE pg_catalog."C",
    is_retried bigint NOT NULL,
    duration_us bigint,
    data bytea NOT NULL
);

CREATE TABLE runfold.run_labels (
    generation bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    value text NOT NULL COLLATE pg_catalog."C",
    created_at text NOT NULL COLLATE pg_catalog."C",
    run_id text NOT NULL COLLATE pg_catalog."C"
);

CREATE TABLE runfold.runs (
    generation bigint NOT NULL,
    run_id text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    project text COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    verdict text NOT NULL COLLATE pg_catalog."C",
    parent_run_id text COLLATE pg_catalog."C",
    created_at text NOT NULL COLLATE pg_catalog."C",
    deleted_at text COLLATE pg_catalog."C",
    version bigint NOT NULL,
    "position" bigint NOT NULL,
    first_recorded_at text NOT NULL COLLATE pg_catalog."C",
    last_recorded_at text NOT NULL COLLATE pg_catalog."C",
    run bytea NOT NULL,
    state bytea NOT NULL
)
WITH (fillfactor='80');

CREATE TABLE runfold.schema_migrations (
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at text NOT NULL
);

CREATE TABLE runfold.tasks (
    run_id uuid NOT NULL,
    shard integer NOT NULL,
    kind text NOT NULL COLLATE pg_catalog."C",
    project text,
    priority integer NOT NULL,
    enqueued bigint NOT NULL,
    state text NOT NULL,
    available_at timestamp with time zone,
    attempt integer NOT NULL,
    shard_count integer,
    shards_left integer,
    by_shard boolean DEFAULT false NOT NULL,
    is_finalizing boolean DEFAULT false NOT NULL,
    token bigint,
    worker text,
    deadline timestamp with time zone,
    abort_requested boolean DEFAULT false NOT NULL,
    abort_by timestamp with time zone,
    since timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='200');

CREATE TABLE runfold.timing_runs (
    generation bigint NOT NULL,
    run_id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    kind text NOT NULL COLLATE pg_catalog."C",
    project text COLLATE pg_catalog."C",
    created_at text NOT NULL COLLATE pg_catalog."C",
    deleted_at text COLLATE pg_catalog."C",
    row_count bigint NOT NULL,
    state bytea NOT NULL
)
WITH (fillfactor='80');

CREATE TABLE runfold.timings (
    generation bigint NOT NULL,
    run_id text NOT NULL COLLATE pg_catalog."C",
    number bigint NOT NULL,
    part bigint NOT NULL,
    attempt bigint NOT NULL,
    name text COLLATE pg_catalog."C",
    worker text COLLATE pg_catalog."C",
    queued_at text COLLATE pg_catalog."C",
    started_at text COLLATE pg_catalog."C",
    finished_at text COLLATE pg_catalog."C"
);

INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (1, '01a1fe89-30ce-7000-abcb-25c661cafb00', 1, '01a1fe89-30ce-7000-bf7f-71cf09332200', 'enqueued', '\x7b22636f6d6d69746d656e74223a2262656663626637636461656666616638343933363361323865633663303631383736663161623032646135306236363461363434663265333861623963626538222c226576656e745f6964223a2230316131666538392d333063652d373030302d626637662d373163663039333332323030222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3232323338315a222c2272756e5f6964223a2230316131666538392d333063652d373030302d616263622d323563363631636166623030222c22736368656d615f76657273696f6e223a312c2274797065223a22656e717565756564227d', '\x7b22656e7175657565645f6174223a22323032362d31312d32315431343a33363a30362e3232323135365a222c226578636c75736976655f6b6579223a226272616e6368206d61696e222c226964656d706f74656e63795f6b6579223a226769746875622d31222c226b696e64223a227375697465222c226c6162656c73223a7b227465616d223a2261227d2c2270726f6a656374223a2270222c2274797065223a22656e717565756564227d', '\xc89bbfbb64ca7e3245344eb401ccb7fd59b9df9aae4283d6176fb05ce6d2a216', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (2, '01a1fe89-30ce-7000-abcb-25c661cafb00', 2, '01a1fe89-30db-7000-82ed-3e60683cbff8', 'started', '\x7b22636f6d6d69746d656e74223a2265613535353635613839346536383665306362396539396333393531623164663132333761396162323139323933646664343539663366643933656365346463222c226576656e745f6964223a2230316131666538392d333064622d373030302d383265642d336536303638336362666638222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3233353537385a222c2272756e5f6964223a2230316131666538392d333063652d373030302d616263622d323563363631636166623030222c22736368656d615f76657273696f6e223a312c2274797065223a2273746172746564227d', '\x7b22617474656d7074223a312c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3233333138355a222c2274797065223a2273746172746564222c22776f726b6572223a227731227d', '\x51c8cdadd8525fcc24e2d5fb2ea0a653da5a2d2be845227a01f6a5274e69abeb', false, 'lease', 2);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (3, '01a1fe89-30ce-7000-abcb-25c661cafb00', 3, '01a1fe89-30e2-7000-bc4c-1f783a26e7c3', 'shard_result_appended', '\x7b22636f6d6d69746d656e74223a2231356631616362356137626463656634303963313731636364386565366630346637343663636638643332626430643630666432653533343532343761393537222c226576656e745f6964223a2230316131666538392d333065322d373030302d626334632d316637383361323665376333222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3234323934325a222c2272756e5f6964223a2230316131666538392d333063652d373030302d616263622d323563363631636166623030222c22736368656d615f76657273696f6e223a312c2274797065223a2273686172645f726573756c745f617070656e646564227d', '\x7b22726573756c7473223a5b7b22737461747573223a22706173736564222c22746573744964223a225431227d2c7b22737461747573223a226661696c6564222c22746573744964223a225432227d5d2c2274797065223a2273686172645f726573756c745f617070656e646564227d', '\x3c049814a4e46f7f6f594da28e2bb46727e7e830d59934411e26dfee5edee614', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (4, '01a1fe89-30ce-7000-abcb-25c661cafb00', 4, '01a1fe89-30e4-7000-8e6e-23fd87386e9f', 'log_appended', '\x7b22636f6d6d69746d656e74223a2266343734343732373231343339613233383162363933366165633830656634336639663638663365356232616534333262356564383836376262343736333135222c226576656e745f6964223a2230316131666538392d333065342d373030302d386536652d323366643837333836653966222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3234343339315a222c2272756e5f6964223a2230316131666538392d333063652d373030302d616263622d323563363631636166623030222c22736368656d615f76657273696f6e223a312c2274797065223a226c6f675f617070656e646564227d', '\x7b226c696e6573223a5b2268656c6c6f225d2c2274797065223a226c6f675f617070656e646564227d', '\x068f84c302defbcae713bf0c11772fded5c8c6bc89b8f59a20d9fe5ac9df8ccc', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (5, '01a1fe89-30ce-7000-abcb-25c661cafb00', 5, '01a1fe89-30e6-7000-bd64-e0fcddbf4bd0', 'completed', '\x7b22636f6d6d69746d656e74223a2231363937343263303463336166303664616438396533313563656535333233326162376263333236383964616338323634386664636531663131346363616137222c226576656e745f6964223a2230316131666538392d333065362d373030302d626436342d653066636464626634626430222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3234363731355a222c2272756e5f6964223a2230316131666538392d333063652d373030302d616263622d323563363631636166623030222c22736368656d615f76657273696f6e223a312c2274797065223a22636f6d706c65746564227d', '\x7b2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3234353338355a222c2274797065223a22636f6d706c65746564227d', '\x0fa46c761430d9faec75f870647ca2e0a723e523f12d5740dbe8b7a492ee17df', true, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (6, '01a1fe89-30e8-7000-9c5b-6bfafa9eb50e', 1, '01a1fe89-30e8-7000-8b1f-e062030a7fdd', 'enqueued', '\x7b22636f6d6d69746d656e74223a2235336533643730633362636433336438663964336639393735356539663032646538306333623464316235346564346339626130643934376531616134646239222c226576656e745f6964223a2230316131666538392d333065382d373030302d386231662d653036323033306137666464222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3234383235365a222c2272756e5f6964223a2230316131666538392d333065382d373030302d396335622d366266616661396562353065222c22736368656d615f76657273696f6e223a312c2274797065223a22656e717565756564227d', '\x7b22656e7175657565645f6174223a22323032362d31312d32315431343a33363a30362e3234383137315a222c226578636c75736976655f6b6579223a226272616e6368206e657874222c226b696e64223a227375697465222c2270726f6a656374223a2270222c2274797065223a22656e717565756564227d', '\xc7836ad907761cb23a82ace118b1f82b4ddaa4c787fbae6a714837c17d78f673', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (7, '01a1fe89-30ee-7000-bb00-3dc00235a559', 1, '01a1fe89-30ee-7000-bc24-80b07828f2b2', 'enqueued', '\x7b22636f6d6d69746d656e74223a2231303136663463306631323961623232363534386338313164323966646431353833353232613238656632653364316637346432323661326239353433323330222c226576656e745f6964223a2230316131666538392d333065652d373030302d626332342d383062303738323866326232222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3235343231315a222c2272756e5f6964223a2230316131666538392d333065652d373030302d626230302d336463303032333561353539222c22736368656d615f76657273696f6e223a312c2274797065223a22656e717565756564227d', '\x7b22656e7175657565645f6174223a22323032362d31312d32315431343a33363a30362e3235343035335a222c226578636c75736976655f6b6579223a226272616e6368206d61696e222c226964656d706f74656e63795f6b6579223a226769746875622d32222c226b696e64223a227375697465222c2270726f6a656374223a2270222c2274797065223a22656e717565756564227d', '\xeeed44d4db6bbded027a5ee49301659ebe34d00c08b049b18beade5802c6c27b', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (8, '01a1fe89-30ee-7000-bb00-3dc00235a559', 2, '01a1fe89-30f4-7000-8e07-2cb8eef9a9d6', 'started', '\x7b22636f6d6d69746d656e74223a2265666339326565373632326539376662633932373333376438323763643934653539623163366333366139626561323663626666643761643138393739343235222c226576656e745f6964223a2230316131666538392d333066342d373030302d386530372d326362386565663961396436222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3236303830365a222c2272756e5f6964223a2230316131666538392d333065652d373030302d626230302d336463303032333561353539222c22736368656d615f76657273696f6e223a312c2274797065223a2273746172746564227d', '\x7b22617474656d7074223a312c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3235393833375a222c2274797065223a2273746172746564222c22776f726b6572223a227732227d', '\xe13fbab90ff461066bd9bc73f5b078bd7e0896afbaad49ca1e474dfac4a34547', false, 'lease', 2);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (9, '01a1fe89-30f6-7000-bb63-2a8a14290c67', 1, '01a1fe89-30f6-7000-9d6a-b51caee739a1', 'enqueued', '\x7b22636f6d6d69746d656e74223a2231653664613735343536643432386238666435656366336262623234336135323865626433393366373031626561343761633036626534363863386664656331222c226576656e745f6964223a2230316131666538392d333066362d373030302d396436612d623531636165653733396131222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3236323437335a222c2272756e5f6964223a2230316131666538392d333066362d373030302d626236332d326138613134323930633637222c22736368656d615f76657273696f6e223a312c2274797065223a22656e717565756564227d', '\x7b22656e7175657565645f6174223a22323032362d31312d32315431343a33363a30362e3236323337375a222c226b696e64223a22736861726473222c2273686172645f636f756e74223a332c2274797065223a22656e717565756564227d', '\xf1cb69ca5d7fd8414dce166c794182db3589e4ce307791ef194bf4db0377677a', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (10, '01a1fe89-30f6-7000-bb63-2a8a14290c67', 2, '01a1fe89-30fd-7000-ba2a-0410c850c20f', 'started', '\x7b22636f6d6d69746d656e74223a2236373539666434303861313664643835313934306436623833356264646237646230373961346633373562663639646235313466616138623663343134316361222c226576656e745f6964223a2230316131666538392d333066642d373030302d626132612d303431306338353063323066222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3236393839325a222c2272756e5f6964223a2230316131666538392d333066362d373030302d626236332d326138613134323930633637222c22736368656d615f76657273696f6e223a312c2274797065223a2273746172746564227d', '\x7b22617474656d7074223a312c2262795f7368617264223a747275652c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3236343834365a222c2274797065223a2273746172746564222c22776f726b6572223a227733227d', '\xdf1fa639375845d2e4e792574b4c2c964a7d11425593c1070f0d876cd330897a', false, 'lease', 2);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (11, '01a1fe89-30f6-7000-bb63-2a8a14290c67', 3, '01a1fe89-30fd-7001-ba2a-0410c850c20f', 'shard_started', '\x7b22636f6d6d69746d656e74223a2238396461366665623534316232343335323434386666373731383766303263626463346366393762613835316438383331396465633533363437363233666264222c226576656e745f6964223a2230316131666538392d333066642d373030312d626132612d303431306338353063323066222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3236393839325a222c2272756e5f6964223a2230316131666538392d333066362d373030302d626236332d326138613134323930633637222c22736368656d615f76657273696f6e223a312c2274797065223a2273686172645f73746172746564227d', '\x7b227368617264223a302c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3236343834365a222c2274797065223a2273686172645f73746172746564222c22776f726b6572223a227733227d', '\xe0787b751be8fdffb497b5ecff89ac0b247eed8c56c1b6b3cff3680151cc049d', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (12, '01a1fe89-3101-7000-a87b-0495a435d907', 1, '01a1fe89-3101-7000-b4ce-524f880baef1', 'enqueued', '\x7b22636f6d6d69746d656e74223a2232633735363063316138363938623634643933383966633230386337306236303433623536366336303338396662623635343466346566323033643863336137222c226576656e745f6964223a2230316131666538392d333130312d373030302d623463652d353234663838306261656631222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3237333836315a222c2272756e5f6964223a2230316131666538392d333130312d373030302d613837622d303439356134333564393037222c22736368656d615f76657273696f6e223a312c2274797065223a22656e717565756564227d', '\x7b22656e7175657565645f6174223a22323032362d31312d32315431343a33363a30362e3237333736315a222c226b696e64223a227375697465222c2274797065223a22656e717565756564227d', '\x9f92ddb8e1f9d0a5808e6c046d539e7125b5f34e9a9ea83df2d3bc1f6b59c1f0', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (13, '01a1fe89-3101-7000-a87b-0495a435d907', 2, '01a1fe89-3104-7000-8f92-0c9ecb175ed7', 'aborted', '\x7b22636f6d6d69746d656e74223a2235336465366266636337353836313865373036303238643535393133316563386433656139376534326239306639323131663363393233323866343932303064222c226576656e745f6964223a2230316131666538392d333130342d373030302d386639322d306339656362313735656437222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3237363130315a222c2272756e5f6964223a2230316131666538392d333130312d373030302d613837622d303439356134333564393037222c22736368656d615f76657273696f6e223a312c2274797065223a2261626f72746564227d', '\x7b2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3237353038335a222c22726561736f6e223a226e6f74206e6565646564222c2274797065223a2261626f72746564227d', '\x29ecd261a1fb5efd5ffcce53517ffc56660de77d3a3dd44fdee3fd8d37fbfe46', true, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (14, '01a1fe89-3105-7000-8ec2-d3ff1ec1cc96', 1, '01a1fe89-3105-7000-a7f5-b164a3cadaaa', 'enqueued', '\x7b22636f6d6d69746d656e74223a2237396639326661306437373631323861316536383137316337353135633164393835323230343534366530643365363863366530636662323664323730386361222c226576656e745f6964223a2230316131666538392d333130352d373030302d613766352d623136346133636164616161222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3237373736315a222c2272756e5f6964223a2230316131666538392d333130352d373030302d386563322d643366663165633163633936222c22736368656d615f76657273696f6e223a312c2274797065223a22656e717565756564227d', '\x7b22656e7175657565645f6174223a22323032362d31312d32315431343a33363a30362e3237373633305a222c226b696e64223a227375697465222c2270726f6a656374223a2271222c2274797065223a22656e717565756564227d', '\xb27b8370ad4fb2f0dca6de615d3690121cac35ad6048e7f16583d7e97b84ec96', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (15, '01a1fe89-3105-7000-8ec2-d3ff1ec1cc96', 2, '01a1fe89-3107-7000-9baa-d328bdbaabbb', 'started', '\x7b22636f6d6d69746d656e74223a2233653135393238613733653939323639383637666263376431623438353531343365623663663662373535323962646430646463346637363962366530316135222c226576656e745f6964223a2230316131666538392d333130372d373030302d396261612d643332386264626161626262222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3237393638355a222c2272756e5f6964223a2230316131666538392d333130352d373030302d386563322d643366663165633163633936222c22736368656d615f76657273696f6e223a312c2274797065223a2273746172746564227d', '\x7b22617474656d7074223a312c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3237383830375a222c2274797065223a2273746172746564222c22776f726b6572223a2277227d', '\xee9311e8be9cd5fa2c77302fd01a928fd022c732104fd3426d8ee4fef951d3e0', false, 'lease', 2);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (16, '01a1fe89-3105-7000-8ec2-d3ff1ec1cc96', 3, '01a1fe89-3109-7000-a35d-6236d17d256e', 'failed', '\x7b22636f6d6d69746d656e74223a2238376230386362623536303365626163383930386439646366303362323838313935663062333464323232326464323966636336636139393061666266343761222c226576656e745f6964223a2230316131666538392d333130392d373030302d613335642d363233366431376432353665222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3238313535315a222c2272756e5f6964223a2230316131666538392d333130352d373030302d386563322d643366663165633163633936222c22736368656d615f76657273696f6e223a312c2274797065223a226661696c6564227d', '\x7b226572726f72223a2262726f6b656e222c226661696c7572655f73756d6d617279223a2262726f6b656e222c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3238303834345a222c2274797065223a226661696c6564227d', '\x6203e730be0803ef679f91c7910089640e29a35306acf094657eb1681c96176a', true, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (17, '01a1fe89-3105-7000-8ec2-d3ff1ec1cc96', 4, '01a1fe89-310b-7000-9a55-405542553681', 'deleted', '\x7b22636f6d6d69746d656e74223a2237623564633061336162313034316534393362646462666562663264316533386131616164343432666530623962653836393166313562326532356633643462222c226576656e745f6964223a2230316131666538392d333130622d373030302d396135352d343035353432353533363831222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3238333138305a222c2272756e5f6964223a2230316131666538392d333130352d373030302d386563322d643366663165633163633936222c22736368656d615f76657273696f6e223a312c2274797065223a2264656c65746564227d', '\x7b2264656c657465645f6174223a22323032362d31312d32315431343a33363a30362e3238323533355a222c2274797065223a2264656c65746564227d', '\x5304907d15067bc42e42a9c7b4d3292e3bdfbc8d9e2ee3b0149da72a7c95e970', false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (19, '01a1fe89-310c-7000-a420-daa86ec737ab', 2, '01a1fe89-310f-7000-8181-93a7cff08e08', 'started', '\x7b22636f6d6d69746d656e74223a2230313263336461616636633031643637653465376334646161663466356231393235366164626263616432613130366633313438336566653634353463343234222c226576656e745f6964223a2230316131666538392d333130662d373030302d383138312d393361376366663038653038222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3238373239355a222c2272756e5f6964223a2230316131666538392d333130632d373030302d613432302d646161383665633733376162222c22736368656d615f76657273696f6e223a312c2274797065223a2273746172746564227d', NULL, NULL, false, 'lease', 2);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (20, '01a1fe89-310c-7000-a420-daa86ec737ab', 3, '01a1fe89-3111-7000-b64c-6741506381f1', 'completed', '\x7b22636f6d6d69746d656e74223a2239393964336336383732613562303732396233663263643436646639323735636134616361366166633866343039393637303266613738613865323965353961222c226576656e745f6964223a2230316131666538392d333131312d373030302d623634632d363734313530363338316631222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3238393036385a222c2272756e5f6964223a2230316131666538392d333130632d373030302d613432302d646161383665633733376162222c22736368656d615f76657273696f6e223a312c2274797065223a22636f6d706c65746564227d', NULL, NULL, true, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (21, '01a1fe89-310c-7000-a420-daa86ec737ab', 4, '01a1fe89-3112-7000-8312-7796e8189c5e', 'deleted', '\x7b22636f6d6d69746d656e74223a2263356133616163323336633762376266353033643164356664323561663134373561616233383763326266363266656538643630393232343266633837386634222c226576656e745f6964223a2230316131666538392d333131322d373030302d383331322d373739366538313839633565222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3239303635375a222c2272756e5f6964223a2230316131666538392d333130632d373030302d613432302d646161383665633733376162222c22736368656d615f76657273696f6e223a312c2274797065223a2264656c65746564227d', NULL, NULL, false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (18, '01a1fe89-310c-7000-a420-daa86ec737ab', 1, '01a1fe89-310c-7000-a420-5e5f7eb1fdd7', 'enqueued', '\x7b22636f6d6d69746d656e74223a2263303038383332303431323837326230356666346537653535613431396337613063366439346262656333303763653432626530393930666464623166363161222c226576656e745f6964223a2230316131666538392d333130632d373030302d613432302d356535663765623166646437222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3238343338335a222c2272756e5f6964223a2230316131666538392d333130632d373030302d613432302d646161383665633733376162222c22736368656d615f76657273696f6e223a312c2274797065223a22656e717565756564227d', NULL, NULL, false, NULL, NULL);
INSERT INTO runfold.events OVERRIDING SYSTEM VALUE VALUES (22, '01a1fe89-310c-7000-a420-daa86ec737ab', 5, '01a1fe89-3116-7000-8678-43dc1449eea3', 'purged', '\x7b22636f6d6d69746d656e74223a2264616161656135326638336533346461666137653536303531616532373061346632646131653264616633366465336134613730306330646336313035326432222c226576656e745f6964223a2230316131666538392d333131362d373030302d383637382d343364633134343965656133222c227265636f726465645f6174223a22323032362d31312d32315431343a33363a30362e3239343432375a222c2272756e5f6964223a2230316131666538392d333130632d373030302d613432302d646161383665633733376162222c22736368656d615f76657273696f6e223a312c2274797065223a22707572676564227d', '\x7b22736b656c65746f6e223a7b22617474656d7074223a312c22636c6f7365645f76657273696f6e223a332c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3238343239305a222c2264656c657465645f6174223a22323032362d31312d32315431343a33363a30362e3239303032365a222c226475726174696f6e5f6d73223a312c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3238383337335a222c226b696e64223a227375697465222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3238363632335a222c22737461747573223a22636f6d706c65746564227d2c2274797065223a22707572676564227d', '\x1dd3c985f82b512264df101c69ca65231f1bb1cab68ff65304044feb603d9a2e', false, 'purge', 1);

INSERT INTO runfold.keys VALUES ('idempotency', 'p', 'github-1', '01a1fe89-30ce-7000-abcb-25c661cafb00', '13b6ea65f04bd5770a14fd84bdca96983f73e820ed6a3f9d0a0c9685dd9244d0', false);
INSERT INTO runfold.keys VALUES ('exclusive', 'p', 'branch next', '01a1fe89-30e8-7000-9c5b-6bfafa9eb50e', '', true);
INSERT INTO runfold.keys VALUES ('idempotency', 'p', 'github-2', '01a1fe89-30ee-7000-bb00-3dc00235a559', '780d4ed116a94e32f95a647dfa02defc8e3f43b732d2ab2445b5517e188ff578', false);
INSERT INTO runfold.keys VALUES ('exclusive', 'p', 'branch main', '01a1fe89-30ee-7000-bb00-3dc00235a559', '', true);
INSERT INTO runfold.keys VALUES ('idempotency', '', 'gone', '01a1fe89-310c-7000-a420-daa86ec737ab', 'c45560269127e43a58d6da825c3ac96d0386a0eff1cd281535ce78006be7ccfe', false);

INSERT INTO runfold.projections VALUES ('runs', 3, 1, 22, NULL);

INSERT INTO runfold.run_labels VALUES (1, 'team', 'a', '2026-11-21T14:36:06.222156Z', '01a1fe89-30ce-7000-abcb-25c661cafb00');

INSERT INTO runfold.runs VALUES (1, '01a1fe89-30ce-7000-abcb-25c661cafb00', 'suite', 'p', 'completed', 'failed', NULL, '2026-11-21T14:36:06.222156Z', NULL, 5, 5, '2026-11-21T14:36:06.222381Z', '2026-11-21T14:36:06.246715Z', '\x7b22617474656d7074223a312c22636c6f7365645f76657273696f6e223a352c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3232323135365a222c226475726174696f6e5f6d73223a31322c226578636c75736976655f6b6579223a226272616e6368206d61696e222c226661696c6564223a312c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3234353338355a222c226964656d706f74656e63795f6b6579223a226769746875622d31222c226b696e64223a227375697465222c226c6162656c73223a7b227465616d223a2261227d2c226c6f675f6c696e655f636f756e74223a312c22706173736564223a312c22706f736974696f6e223a352c2270726f6a656374223a2270222c2272756e5f6964223a2230316131666538392d333063652d373030302d616263622d323563363631636166623030222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3233333138355a222c22737461747573223a22636f6d706c65746564222c227374617475736573223a7b226661696c6564223a312c22706173736564223a317d2c22746f74616c223a322c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3234363731355a222c2276657264696374223a226661696c6564222c2276657273696f6e223a352c22776f726b6572223a227731227d', '\x7b2272756e5f6964223a2230316131666538392d333063652d373030302d616263622d323563363631636166623030222c226b696e64223a227375697465222c2270726f6a656374223a2270222c22737461747573223a22636f6d706c65746564222c2276657264696374223a226661696c6564222c22617474656d7074223a312c226c6162656c73223a7b227465616d223a2261227d2c22776f726b6572223a227731222c22706173736564223a312c226661696c6564223a312c22746f74616c223a322c227374617475736573223a7b22706173736564223a312c226661696c6564223a317d2c226c6f675f6c696e655f636f756e74223a312c226964656d706f74656e63795f6b6579223a226769746875622d31222c226578636c75736976655f6b6579223a226272616e6368206d61696e222c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3232323135365a222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3233333138355a222c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3234353338355a222c226475726174696f6e5f6d73223a31322c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3234363731355a222c2276657273696f6e223a352c22706f736974696f6e223a352c22636c6f7365645f76657273696f6e223a352c22756e73686172646564223a7b227374617475736573223a7b22706173736564223a312c226661696c6564223a317d7d2c226c6566745f6f7574223a7b7d2c22636f756e7465645f706173736564223a312c22636f756e7465645f6661696c6564223a312c2274616b656e5f76657273696f6e223a327d');
INSERT INTO runfold.runs VALUES (1, '01a1fe89-30e8-7000-9c5b-6bfafa9eb50e', 'suite', 'p', 'queued', 'none', NULL, '2026-11-21T14:36:06.248171Z', NULL, 1, 6, '2026-11-21T14:36:06.248256Z', '2026-11-21T14:36:06.248256Z', '\x7b22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3234383137315a222c226578636c75736976655f6b6579223a226272616e6368206e657874222c226b696e64223a227375697465222c22706f736974696f6e223a362c2270726f6a656374223a2270222c2272756e5f6964223a2230316131666538392d333065382d373030302d396335622d366266616661396562353065222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3234383235365a222c2276657273696f6e223a317d', '\x7b2272756e5f6964223a2230316131666538392d333065382d373030302d396335622d366266616661396562353065222c226b696e64223a227375697465222c2270726f6a656374223a2270222c226578636c75736976655f6b6579223a226272616e6368206e657874222c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3234383137315a222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3234383235365a222c2276657273696f6e223a312c22706f736974696f6e223a362c22756e73686172646564223a7b7d2c226c6566745f6f7574223a7b7d7d');
INSERT INTO runfold.runs VALUES (1, '01a1fe89-30ee-7000-bb00-3dc00235a559', 'suite', 'p', 'running', 'none', NULL, '2026-11-21T14:36:06.254053Z', NULL, 2, 8, '2026-11-21T14:36:06.254211Z', '2026-11-21T14:36:06.260806Z', '\x7b22617474656d7074223a312c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3235343035335a222c226578636c75736976655f6b6579223a226272616e6368206d61696e222c226964656d706f74656e63795f6b6579223a226769746875622d32222c226b696e64223a227375697465222c22706f736974696f6e223a382c2270726f6a656374223a2270222c2272756e5f6964223a2230316131666538392d333065652d373030302d626230302d336463303032333561353539222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3235393833375a222c22737461747573223a2272756e6e696e67222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3236303830365a222c2276657273696f6e223a322c22776f726b6572223a227732227d', '\x7b2272756e5f6964223a2230316131666538392d333065652d373030302d626230302d336463303032333561353539222c226b696e64223a227375697465222c2270726f6a656374223a2270222c22737461747573223a2272756e6e696e67222c22617474656d7074223a312c22776f726b6572223a227732222c226964656d706f74656e63795f6b6579223a226769746875622d32222c226578636c75736976655f6b6579223a226272616e6368206d61696e222c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3235343035335a222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3235393833375a222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3236303830365a222c2276657273696f6e223a322c22706f736974696f6e223a382c22756e73686172646564223a7b7d2c226c6566745f6f7574223a7b7d2c2274616b656e5f76657273696f6e223a327d');
INSERT INTO runfold.runs VALUES (1, '01a1fe89-30f6-7000-bb63-2a8a14290c67', 'shards', NULL, 'running', 'none', NULL, '2026-11-21T14:36:06.262377Z', NULL, 3, 11, '2026-11-21T14:36:06.262473Z', '2026-11-21T14:36:06.269892Z', '\x7b22617474656d7074223a312c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3236323337375a222c226b696e64223a22736861726473222c22706f736974696f6e223a31312c2272756e5f6964223a2230316131666538392d333066362d373030302d626236332d326138613134323930633637222c2273686172645f636f756e74223a332c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3236343834365a222c22737461747573223a2272756e6e696e67222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3236393839325a222c2276657273696f6e223a332c22776f726b6572223a227733227d', '\x7b2272756e5f6964223a2230316131666538392d333066362d373030302d626236332d326138613134323930633637222c226b696e64223a22736861726473222c22737461747573223a2272756e6e696e67222c22617474656d7074223a312c22776f726b6572223a227733222c2273686172645f636f756e74223a332c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3236323337375a222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3236343834365a222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3236393839325a222c2276657273696f6e223a332c22706f736974696f6e223a31312c22736861726473223a7b2230223a7b22776f726b6572223a227733222c22726573756c7473223a7b7d7d7d2c22756e73686172646564223a7b7d2c226c6566745f6f7574223a7b7d2c2274616b656e5f76657273696f6e223a327d');
INSERT INTO runfold.runs VALUES (1, '01a1fe89-3101-7000-a87b-0495a435d907', 'suite', NULL, 'aborted', 'none', NULL, '2026-11-21T14:36:06.273761Z', NULL, 2, 13, '2026-11-21T14:36:06.273861Z', '2026-11-21T14:36:06.276101Z', '\x7b22636c6f7365645f76657273696f6e223a322c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3237333736315a222c226572726f72223a226e6f74206e6565646564222c226572726f725f63617465676f7279223a2275736572222c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3237353038335a222c226b696e64223a227375697465222c22706f736974696f6e223a31332c2272756e5f6964223a2230316131666538392d333130312d373030302d613837622d303439356134333564393037222c22737461747573223a2261626f72746564222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3237363130315a222c2276657273696f6e223a327d', '\x7b2272756e5f6964223a2230316131666538392d333130312d373030302d613837622d303439356134333564393037222c226b696e64223a227375697465222c22737461747573223a2261626f72746564222c226572726f72223a226e6f74206e6565646564222c226572726f725f63617465676f7279223a2275736572222c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3237333736315a222c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3237353038335a222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3237363130315a222c2276657273696f6e223a322c22706f736974696f6e223a31332c22636c6f7365645f76657273696f6e223a322c22756e73686172646564223a7b7d2c226c6566745f6f7574223a7b7d7d');
INSERT INTO runfold.runs VALUES (1, '01a1fe89-3105-7000-8ec2-d3ff1ec1cc96', 'suite', 'q', 'failed', 'none', NULL, '2026-11-21T14:36:06.277630Z', '2026-11-21T14:36:06.282535Z', 4, 17, '2026-11-21T14:36:06.277761Z', '2026-11-21T14:36:06.283180Z', '\x7b22617474656d7074223a312c22636c6f7365645f76657273696f6e223a332c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3237373633305a222c2264656c657465645f6174223a22323032362d31312d32315431343a33363a30362e3238323533355a222c226475726174696f6e5f6d73223a322c226572726f72223a2262726f6b656e222c226661696c7572655f73756d6d617279223a2262726f6b656e222c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3238303834345a222c226b696e64223a227375697465222c22706f736974696f6e223a31372c2270726f6a656374223a2271222c2272756e5f6964223a2230316131666538392d333130352d373030302d386563322d643366663165633163633936222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3237383830375a222c22737461747573223a226661696c6564222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3238333138305a222c2276657273696f6e223a342c22776f726b6572223a2277227d', '\x7b2272756e5f6964223a2230316131666538392d333130352d373030302d386563322d643366663165633163633936222c226b696e64223a227375697465222c2270726f6a656374223a2271222c22737461747573223a226661696c6564222c22617474656d7074223a312c22776f726b6572223a2277222c226572726f72223a2262726f6b656e222c226661696c7572655f73756d6d617279223a2262726f6b656e222c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3237373633305a222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3237383830375a222c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3238303834345a222c226475726174696f6e5f6d73223a322c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3238333138305a222c2264656c657465645f6174223a22323032362d31312d32315431343a33363a30362e3238323533355a222c2276657273696f6e223a342c22706f736974696f6e223a31372c22636c6f7365645f76657273696f6e223a332c22756e73686172646564223a7b7d2c226c6566745f6f7574223a7b7d2c2274616b656e5f76657273696f6e223a327d');
INSERT INTO runfold.runs VALUES (1, '01a1fe89-310c-7000-a420-daa86ec737ab', 'suite', NULL, 'completed', 'none', NULL, '2026-11-21T14:36:06.284290Z', '', 5, 22, '2026-11-21T14:36:06.284383Z', '2026-11-21T14:36:06.294427Z', '\x7b22617474656d7074223a312c22636c6f7365645f76657273696f6e223a332c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3238343239305a222c2264656c657465645f6174223a22323032362d31312d32315431343a33363a30362e3239303032365a222c226475726174696f6e5f6d73223a312c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3238383337335a222c226b696e64223a227375697465222c22706f736974696f6e223a32322c227075726765645f6174223a22323032362d31312d32315431343a33363a30362e3239343432375a222c227075726765645f76657273696f6e223a352c2272756e5f6964223a2230316131666538392d333130632d373030302d613432302d646161383665633733376162222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3238363632335a222c22737461747573223a22636f6d706c65746564222c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3239343432375a222c2276657273696f6e223a357d', '\x7b2272756e5f6964223a2230316131666538392d333130632d373030302d613432302d646161383665633733376162222c226b696e64223a227375697465222c22737461747573223a22636f6d706c65746564222c22617474656d7074223a312c22637265617465645f6174223a22323032362d31312d32315431343a33363a30362e3238343239305a222c22737461727465645f6174223a22323032362d31312d32315431343a33363a30362e3238363632335a222c2266696e69736865645f6174223a22323032362d31312d32315431343a33363a30362e3238383337335a222c226475726174696f6e5f6d73223a312c22757064617465645f6174223a22323032362d31312d32315431343a33363a30362e3239343432375a222c2264656c657465645f6174223a22323032362d31312d32315431343a33363a30362e3239303032365a222c227075726765645f6174223a22323032362d31312d32315431343a33363a30362e3239343432375a222c2276657273696f6e223a352c22706f736974696f6e223a32322c22636c6f7365645f76657273696f6e223a332c227075726765645f76657273696f6e223a352c22756e73686172646564223a7b7d2c226c6566745f6f7574223a7b7d7d');

INSERT INTO runfold.schema_migrations VALUES (1, 'log', '378fd45f0a6fc661a4a936a2fae3a0f2521a75f45c45c1865abd400fd93e72aa', '2026-11-21T14:36:06.167551Z');
INSERT INTO runfold.schema_migrations VALUES (2, 'runs', '6144cea74f555b9641959cda1585870c03a8b056bc4e78ad9d48b72307d20be8', '2026-11-21T14:36:06.188196Z');
INSERT INTO runfold.schema_migrations VALUES (3, 'tasks', 'faccbb6f84963ac4c63d997d39ab9510836e289d2a2bcd704af395e21a9df0a1', '2026-11-21T14:36:06.198304Z');
INSERT INTO runfold.schema_migrations VALUES (4, 'bin', 'e88b2c7b25a7c1d7fcc69b172e21a9a29df4c0fa7d4f4b8afad575ee1a060ae9', '2026-11-21T14:36:06.201184Z');
INSERT INTO runfold.schema_migrations VALUES (5, 'access_tokens', 'd24d402aecdcb7c1d84fe27f5cdac7dea5a0fe0e164790082d23f4c97e39221d', '2026-11-21T14:36:06.204730Z');
INSERT INTO runfold.schema_migrations VALUES (6, 'details', '7e8bca0a12d883e4128cabaeeb1e5d66ff63345d4ce2e07467420854ca0c01c2', '2026-11-21T14:36:06.219806Z');

INSERT INTO runfold.tasks VALUES ('01a1fe89-30e8-7000-9c5b-6bfafa9eb50e', -1, 'suite', 'p', 0, 6, 'waiting', NULL, 0, NULL, NULL, false, false, NULL, NULL, NULL, false, NULL, '2026-11-21 14:36:06.2484+00');
INSERT INTO runfold.tasks VALUES ('01a1fe89-30ee-7000-bb00-3dc00235a559', -1, 'suite', 'p', 0, 7, 'held', NULL, 1, NULL, NULL, false, false, 2, 'w2', NULL, false, NULL, '2026-11-21 14:36:06.261027+00');
INSERT INTO runfold.tasks VALUES ('01a1fe89-30f6-7000-bb63-2a8a14290c67', 1, 'shards', NULL, 0, 9, 'waiting', NULL, 1, NULL, NULL, false, false, NULL, NULL, NULL, false, NULL, '2026-11-21 14:36:06.262625+00');
INSERT INTO runfold.tasks VALUES ('01a1fe89-30f6-7000-bb63-2a8a14290c67', 2, 'shards', NULL, 0, 9, 'waiting', NULL, 1, NULL, NULL, false, false, NULL, NULL, NULL, false, NULL, '2026-11-21 14:36:06.262625+00');
INSERT INTO runfold.tasks VALUES ('01a1fe89-30f6-7000-bb63-2a8a14290c67', -1, 'shards', NULL, 0, 9, 'idle', NULL, 1, 3, 3, true, false, 2, 'w3', NULL, false, NULL, '2026-11-21 14:36:06.266395+00');
INSERT INTO runfold.tasks VALUES ('01a1fe89-30f6-7000-bb63-2a8a14290c67', 0, 'shards', NULL, 0, 9, 'held', NULL, 1, NULL, NULL, false, false, 1, 'w3', '2026-11-21 14:37:06.266395+00', false, NULL, '2026-11-21 14:36:06.266395+00');

SELECT pg_catalog.setval('runfold.events_position_seq', 22, true);

ALTER TABLE ONLY runfold.access_tokens
    ADD CONSTRAINT access_tokens_pkey PRIMARY KEY (token_id);

ALTER TABLE ONLY runfold.access_tokens
    ADD CONSTRAINT access_tokens_secret_hash_key UNIQUE (secret_hash);

ALTER TABLE ONLY runfold.events
    ADD CONSTRAINT events_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY runfold.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (space, project, key);

ALTER TABLE ONLY runfold.projections
    ADD CONSTRAINT projections_pkey PRIMARY KEY (name);

ALTER TABLE ONLY runfold.run_labels
    ADD CONSTRAINT run_labels_pkey PRIMARY KEY (generation, name, value, created_at, run_id);

ALTER TABLE ONLY runfold.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY runfold.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (run_id, shard);

CREATE UNIQUE INDEX document_runs_id ON runfold.document_runs USING btree (generation, run_id);

CREATE INDEX documents_name ON runfold.documents USING btree (generation, name, created_at, run_id, project, kind, is_empty);

CREATE UNIQUE INDEX documents_number ON runfold.documents USING btree (generation, run_id, number);

CREATE UNIQUE INDEX events_event_id ON runfold.events USING btree (event_id);

CREATE INDEX events_fence ON runfold.events USING btree (run_id, fence, fence_epoch) WHERE (fence IS NOT NULL);

CREATE UNIQUE INDEX events_one_closing ON runfold.events USING btree (run_id) WHERE closes;

CREATE UNIQUE INDEX events_run_version ON runfold.events USING btree (run_id, version);

CREATE INDEX keys_until_closed ON runfold.keys USING btree (run_id) WHERE until_closed;

CREATE UNIQUE INDEX result_runs_id ON runfold.result_runs USING btree (generation, run_id);

CREATE INDEX result_runs_project ON runfold.result_runs USING btree (generation, project, created_at, run_id, deleted_at);

CREATE UNIQUE INDEX results_number ON runfold.results USING btree (generation, run_id, number);

CREATE INDEX results_test ON runfold.results USING btree (generation, test, created_at, run_id, number, project, kind) WHERE (test IS NOT NULL);

CREATE INDEX run_labels_run ON runfold.run_labels USING btree (generation, run_id);

CREATE INDEX runs_bin ON runfold.runs USING btree (generation, created_at, run_id) WHERE (deleted_at > ''::text);

CREATE UNIQUE INDEX runs_id ON runfold.runs USING btree (generation, run_id);

CREATE INDEX runs_kind ON runfold.runs USING btree (generation, kind, created_at, run_id, deleted_at);

CREATE INDEX runs_newest ON runfold.runs USING btree (generation, created_at, run_id, deleted_at);

CREATE INDEX runs_parent ON runfold.runs USING btree (generation, parent_run_id, created_at, run_id, deleted_at) WHERE (parent_run_id IS NOT NULL);

CREATE INDEX runs_project ON runfold.runs USING btree (generation, project, created_at, run_id, deleted_at);

CREATE INDEX runs_project_status ON runfold.runs USING btree (generation, project, status, created_at, run_id, deleted_at);

CREATE INDEX runs_purged ON runfold.runs USING btree (generation, created_at, run_id) WHERE (deleted_at = ''::text);

CREATE INDEX runs_status ON runfold.runs USING btree (generation, status, created_at, run_id, deleted_at);

CREATE INDEX tasks_abort_by ON runfold.tasks USING btree (abort_by) WHERE (abort_by IS NOT NULL);

CREATE INDEX tasks_deadline ON runfold.tasks USING btree (deadline) WHERE (deadline IS NOT NULL);

CREATE INDEX tasks_scheduled ON runfold.tasks USING btree (available_at) WHERE (state = 'scheduled'::text);

CREATE INDEX tasks_waiting ON runfold.tasks USING btree (kind, priority DESC, enqueued, shard) WHERE (state = 'waiting'::text);

CREATE UNIQUE INDEX timing_runs_id ON runfold.timing_runs USING btree (generation, run_id);

CREATE UNIQUE INDEX timings_number ON runfold.timings USING btree (generation, run_id, number);

CREATE TRIGGER events_follow AFTER INSERT ON runfold.events FOR EACH ROW WHEN ((new.closes OR (new.type = ANY (ARRAY['enqueued'::text, 'released'::text, 'started'::text, 'resumed'::text, 'shard_started'::text, 'shard_completed'::text, 'shard_retried'::text, 'attempt_failed'::text, 'interrupted'::text, 'abort_requested'::text, 'finalization_started'::text])))) EXECUTE FUNCTION runfold.follow_event();

ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_follow;

CREATE TRIGGER events_mark_writer BEFORE INSERT ON runfold.events FOR EACH STATEMENT EXECUTE FUNCTION runfold.mark_writer();

ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_mark_writer;

CREATE TRIGGER events_refuse_change BEFORE DELETE OR UPDATE ON runfold.events FOR EACH ROW EXECUTE FUNCTION runfold.refuse_change();

ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_refuse_change;

CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON runfold.events FOR EACH STATEMENT EXECUTE FUNCTION runfold.refuse_change();

ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_refuse_truncate;

-- PostgreSQL database dump complete
