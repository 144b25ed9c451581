-- What an append and a claim no longer pay for.
--
-- * Keys that are held until a run is closed go back when its closing event is inserted, so an append need not ask.
-- * The condition of a trigger is read and planned anew for each statement: a list of types took 20 of the 55 us of an
--   insert. A function is planned once in a session.

CREATE FUNCTION runfold.moves_tasks(p_type text, p_closes boolean) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN p_closes OR p_type IN (
        'enqueued', 'released', 'started', 'resumed', 'shard_started', 'shard_completed', 'shard_retried',
        'attempt_failed', 'interrupted', 'abort_requested', 'finalization_started'
    );
END
$$;

DROP TRIGGER events_follow ON runfold.events;

CREATE TRIGGER events_follow
AFTER INSERT ON runfold.events
FOR EACH ROW
WHEN (runfold.moves_tasks(NEW.type, NEW.closes))
EXECUTE FUNCTION runfold.follow_event();

ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_follow;

CREATE FUNCTION runfold.return_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM runfold.keys WHERE run_id = NEW.run_id AND until_closed;
    RETURN NULL;
END
$$;

CREATE TRIGGER events_return_keys
AFTER INSERT ON runfold.events
FOR EACH ROW
WHEN (NEW.closes)
EXECUTE FUNCTION runfold.return_keys();

ALTER TABLE runfold.events ENABLE ALWAYS TRIGGER events_return_keys;

CREATE OR REPLACE FUNCTION runfold.append_one(
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
END
$$;

DROP FUNCTION runfold.lend_runs(text[], integer, float8, text, uuid[], bytea[], text[], text[]);

-- Takes whole runs that wait, in one round trip: appends `started` to each and lends it. The events are the claimer's,
-- from templates: what it cannot know (the run, the attempt, and so the commitment) is put in here. Where the next task
-- is none of these, it stops; a row without a run says that there is such a task.
-- The salts stand one after the other, 32 bytes each. Whoever calls it has told the session to plan once and for all,
-- and in the order of the indexes; told by the function itself, each call would take a tenth longer.
CREATE FUNCTION runfold.lend_runs(
    p_kinds text[], p_limit integer, p_lease_s float8, p_worker text,
    p_event_ids uuid[], p_salts bytea, p_payload text[], p_envelope text[]
)
RETURNS TABLE (
    run_id uuid, attempt integer, version bigint, "position" bigint, deadline timestamptz,
    first_position bigint, first_envelope bytea, first_payload bytea
) LANGUAGE plpgsql
AS $$
DECLARE
    task record;
    said bytea;
    its_salt bytea;
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
        run_id := task.run_id;
        attempt := task.attempt + 1;
        its_salt := substring(p_salts FROM taken * 32 + 1 FOR 32);
        taken := taken + 1;
        said := convert_to(p_payload[1] || attempt || p_payload[2], 'UTF8');
        SELECT
            (SELECT l.version + 1 FROM runfold.events l WHERE l.run_id = task.run_id ORDER BY l.version DESC LIMIT 1),
            e.position, e.envelope, e.payload
        INTO version, first_position, first_envelope, first_payload
        FROM runfold.events e
        WHERE e.run_id = task.run_id AND e.version = 1;
        INSERT INTO runfold.events AS e
            (run_id, version, event_id, type, envelope, payload, salt, fence, fence_epoch)
        VALUES (
            task.run_id, lend_runs.version, p_event_ids[taken], 'started',
            convert_to(
                p_envelope[1] || encode(sha256(its_salt || said), 'hex') || p_envelope[2] || p_event_ids[taken]
                || p_envelope[3] || task.run_id || p_envelope[4],
                'UTF8'
            ),
            said, its_salt, 'lease', lend_runs.version
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

ALTER FUNCTION runfold.claim_tasks(text[], integer) SET plan_cache_mode = force_generic_plan;
