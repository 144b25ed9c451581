-- The recycle bin without what is purged: of a purged run `deleted_at` is empty, so that it is in no list but its own,
-- and purged runs, which only grow in number, cost the bin nothing.

DROP INDEX runfold.runs_deleted;

CREATE INDEX runs_bin ON runfold.runs (generation, created_at, run_id) WHERE deleted_at > '';

CREATE INDEX runs_purged ON runfold.runs (generation, created_at, run_id) WHERE deleted_at = '';

-- Takes the run's turn and tells whether an append is accepted: `ok`, or why not, with the version of the stream and
-- the newest thing that stands in the way. A purged run takes nothing from those who only ask that it exists.
CREATE OR REPLACE FUNCTION runfold.guard(
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
