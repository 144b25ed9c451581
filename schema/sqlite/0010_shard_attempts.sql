-- Numbers the attempts of shards on when their run is tried anew.
--
-- They began at 1 again, behind the fence that a retry had raised: what the new holder of such a shard wrote was refused
-- as that of an older attempt.

DROP TRIGGER tasks_lay_out;

CREATE TRIGGER tasks_lay_out
INSTEAD OF INSERT ON tasks_laid_out
BEGIN
    DELETE FROM tasks WHERE run_id = NEW.run_id AND shard >= 0;
    INSERT INTO tasks
        (run_id, shard, kind, project, priority, enqueued, state, available_at, attempt, abort_requested, abort_by)
    SELECT run.run_id, number.key, run.kind, run.project, run.priority, run.enqueued, NEW.state, NEW.available_at,
        coalesce(
            (SELECT max(fence_epoch) FROM events WHERE run_id = NEW.run_id AND fence = 'shard ' || number.key), 1
        ),
        run.abort_requested, run.abort_by
    FROM tasks AS run
    CROSS JOIN json_each('[' || substr(replace(hex(zeroblob(run.shard_count)), '00', ',0'), 2) || ']') AS number
    WHERE run.run_id = NEW.run_id AND run.shard = -1 AND run.shard_count > 0;
    UPDATE tasks SET shards_left = shard_count WHERE run_id = NEW.run_id AND shard = -1;
END;
