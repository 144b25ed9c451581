-- What there is to do: one row for each run and each shard that is not done, and who holds it.
--
-- What cannot be seen in the columns:
-- * The rows follow the log, event by event, in the transaction that appends the event: a trigger does it, so whatever
--   appends (COPY too) leaves log and tasks agreeing. Only `deadline` is more than the log says, for heartbeats are no
--   events; it is the database's clock, so the workers' clocks do not matter.
-- * `shard` -1 is the run: the whole of it, or, when it is cut into shards, its finalization once `shards_left` is 0.
-- * `state`: `waiting` may be claimed now, `scheduled` at `available_at`, `held` is somebody's (a lease when there is a
--   deadline), `idle` waits for other rows of its run.
-- * Rows go with the run's closing event, so the table is as large as what is left to do, not as what was ever done.
-- * `enqueued` is the position of the run's first event: among equals, the older goes first.
-- * Locks: an append takes the run's lock, then rows here. A claim takes rows first, so it only tries for the run's lock
--   and passes over a run that somebody is writing to; it waits for nobody.

CREATE TABLE runfold.tasks (
    run_id          uuid    NOT NULL,
    shard           integer NOT NULL,
    kind            text    COLLATE "C" NOT NULL,
    project         text,
    priority        integer NOT NULL,
    enqueued        bigint  NOT NULL,
    state           text    NOT NULL,
    available_at    timestamptz,
    attempt         integer NOT NULL,
    shard_count     integer,
    shards_left     integer,
    by_shard        boolean NOT NULL DEFAULT false,
    is_finalizing   boolean NOT NULL DEFAULT false,
    token           bigint,
    worker          text,
    deadline        timestamptz,
    abort_requested boolean NOT NULL DEFAULT false,
    abort_by        timestamptz,
    since           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, shard)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200);

CREATE INDEX tasks_waiting ON runfold.tasks (kind, priority DESC, enqueued, shard) WHERE state = 'waiting';

CREATE INDEX tasks_scheduled ON runfold.tasks (available_at) WHERE state = 'scheduled';

CREATE INDEX tasks_deadline ON runfold.tasks (deadline) WHERE deadline IS NOT NULL;

CREATE INDEX tasks_abort_by ON runfold.tasks (abort_by) WHERE abort_by IS NOT NULL;

-- Puts the shards of a run there, all of them undone.
CREATE FUNCTION runfold.lay_out_shards(p_run uuid, p_state text, p_available_at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
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

-- Lets a run be finalized once its shards are done: at once where workers take the shards one by one, else after a
-- while in which whoever executes it is expected to.
CREATE FUNCTION runfold.offer_finalization(p_run uuid, p_grace interval) RETURNS void LANGUAGE plpgsql AS $$
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

CREATE FUNCTION runfold.follow_event() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER events_follow
AFTER INSERT ON runfold.events
FOR EACH ROW
WHEN (
    NEW.closes
    OR NEW.type IN (
        'enqueued', 'released', 'started', 'resumed', 'shard_started', 'shard_completed', 'shard_retried',
        'attempt_failed', 'interrupted', 'abort_requested', 'finalization_started'
    )
)
EXECUTE FUNCTION runfold.follow_event();

ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_follow;

-- Makes what became due claimable; a few at a time, and none that somebody else is looking at.
CREATE FUNCTION runfold.promote_tasks() RETURNS void LANGUAGE sql AS $$
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

-- Gives the kinds of which something waits: steps over the index, one look-up a kind.
CREATE FUNCTION runfold.waiting_kinds() RETURNS text[] LANGUAGE sql STABLE AS $$
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

-- Takes whole runs that wait, in one round trip: appends `started` to each and lends it. The events are the claimer's,
-- from templates: what it cannot know (the run, the attempt, and so the commitment) is put in here. Where the next task
-- is none of these, it stops; a row without a run says that there is such a task.
CREATE FUNCTION runfold.lend_runs(
    p_kinds text[], p_limit integer, p_lease_s float8, p_worker text,
    p_event_ids uuid[], p_salts bytea[], p_payload text[], p_envelope text[]
)
RETURNS TABLE (
    run_id uuid, attempt integer, version bigint, "position" bigint, deadline timestamptz,
    first_position bigint, first_envelope bytea, first_payload bytea
) LANGUAGE plpgsql
-- The rows are read in the order of the index, whatever the statistics of a table that is different every second say.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
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

-- Gives tasks to a claim, locked until its transaction ends, with what is needed to take them: where their runs stand.
-- A run whose lock somebody holds is passed over: it is being written to, and will be there again in a moment.
CREATE FUNCTION runfold.claim_tasks(p_kinds text[], p_limit integer)
RETURNS TABLE (
    run_id uuid, shard integer, kind text, project text, attempt integer, is_finalizing boolean, is_scheduled boolean,
    is_started boolean, run_attempt integer, version bigint, first_position bigint, first_envelope bytea,
    first_payload bytea
) LANGUAGE plpgsql
-- The rows are read in the order of the index, whatever the statistics of a table that is different every second say.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
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
