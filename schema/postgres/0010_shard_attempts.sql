-- Numbers the attempts of shards on when their run is tried anew.
--
-- They began at 1 again, behind the fence that a retry had raised: what the new holder of such a shard wrote was refused
-- as that of an older attempt.

CREATE OR REPLACE FUNCTION runfold.lay_out_shards(p_run uuid, p_state text, p_available_at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM runfold.tasks WHERE run_id = p_run AND shard >= 0;
    INSERT INTO runfold.tasks
        (run_id, shard, kind, project, priority, enqueued, state, available_at, attempt, abort_requested, abort_by)
    SELECT t.run_id, s.shard, t.kind, t.project, t.priority, t.enqueued, p_state, p_available_at,
        coalesce(retried.attempt, 1), t.abort_requested, t.abort_by
    FROM runfold.tasks t
    CROSS JOIN LATERAL generate_series(0, t.shard_count - 1) AS s (shard)
    LEFT JOIN (
        SELECT e.fence, max(e.fence_epoch) AS attempt
        FROM runfold.events e
        WHERE e.run_id = p_run AND e.fence IS NOT NULL AND e.type = 'shard_retried'
        GROUP BY e.fence
    ) AS retried ON retried.fence = 'shard ' || s.shard
    WHERE t.run_id = p_run AND t.shard = -1;
    UPDATE runfold.tasks SET shards_left = shard_count WHERE run_id = p_run AND shard = -1;
END
$$;
