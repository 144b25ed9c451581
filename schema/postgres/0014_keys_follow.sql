-- Keys that are held until a run is closed go back with its tasks, when its closing event is inserted: `follow_event` does
-- that, so an append need not.
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
