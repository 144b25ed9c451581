-- Asks an event once whether the tasks follow it.
--
-- Each of the triggers that keep the tasks looked at every event: twelve calls of a sub-program an insert, 5 of the 11
-- microseconds that an insert inside a transaction took, for the results and log lines that nothing follows. Now one
-- trigger looks, and hands on what concerns the tasks by way of a view that holds nothing.

CREATE VIEW events_followed AS
SELECT position, run_id, version, type, payload, closes
FROM events
WHERE FALSE;

DROP TRIGGER events_follow_closing;

CREATE TRIGGER events_follow_closing
INSTEAD OF INSERT ON events_followed
WHEN NEW.closes = 1
BEGIN
    DELETE FROM tasks WHERE run_id = NEW.run_id;
END;

DROP TRIGGER events_follow_enqueued;

CREATE TRIGGER events_follow_enqueued
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'enqueued'
BEGIN
    INSERT OR IGNORE INTO tasks
        (run_id, shard, kind, project, priority, enqueued, state, available_at, attempt, shard_count, shards_left)
    SELECT
        NEW.run_id, -1, said ->> '$.kind', said ->> '$.project', coalesce(said ->> '$.priority', 0), NEW.position,
        CASE
            WHEN said ->> '$.shard_count' IS NOT NULL THEN 'idle'
            WHEN said ->> '$.not_before' > said ->> '$.enqueued_at' THEN 'scheduled'
            ELSE 'waiting'
        END,
        iif(
            said ->> '$.not_before' > said ->> '$.enqueued_at',
            CAST(unixepoch(said ->> '$.not_before', 'subsec') * 1000 AS INTEGER),
            NULL
        ),
        0, said ->> '$.shard_count', said ->> '$.shard_count'
    FROM (SELECT CAST(NEW.payload AS TEXT) AS said);
    INSERT INTO tasks_laid_out (run_id, state, available_at)
    SELECT run_id, iif(available_at IS NULL, 'waiting', 'scheduled'), available_at
    FROM tasks
    WHERE run_id = NEW.run_id AND shard = -1 AND shard_count IS NOT NULL AND enqueued = NEW.position;
END;

DROP TRIGGER events_follow_released;

CREATE TRIGGER events_follow_released
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'released'
BEGIN
    UPDATE tasks
    SET state = 'waiting', available_at = NULL, since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id AND state = 'scheduled';
END;

DROP TRIGGER events_follow_started;

CREATE TRIGGER events_follow_started
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'started'
BEGIN
    INSERT INTO tasks_laid_out (run_id, state)
    SELECT run_id, 'waiting'
    FROM tasks
    WHERE run_id = NEW.run_id
        AND shard = -1
        AND shard_count IS NOT NULL
        AND (CAST(NEW.payload AS TEXT) ->> '$.attempt') > 1;
    UPDATE tasks
    SET state = iif(coalesce(CAST(NEW.payload AS TEXT) ->> '$.by_shard', 0), 'idle', 'held'),
        attempt = iif(shard = -1, CAST(NEW.payload AS TEXT) ->> '$.attempt', attempt),
        by_shard = coalesce(CAST(NEW.payload AS TEXT) ->> '$.by_shard', 0),
        is_finalizing = 0,
        available_at = NULL,
        token = NEW.version,
        worker = CAST(NEW.payload AS TEXT) ->> '$.worker',
        deadline = NULL,
        since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id AND (shard = -1 OR NOT coalesce(CAST(NEW.payload AS TEXT) ->> '$.by_shard', 0));
END;

DROP TRIGGER events_follow_resumed;

CREATE TRIGGER events_follow_resumed
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'resumed'
BEGIN
    UPDATE tasks
    SET state = CASE
            WHEN NOT (SELECT by_shard FROM tasks WHERE run_id = NEW.run_id AND shard = -1) THEN 'held'
            WHEN shard = -1 THEN 'idle'
            ELSE 'waiting'
        END,
        token = NEW.version,
        worker = CAST(NEW.payload AS TEXT) ->> '$.worker',
        is_finalizing = 0,
        deadline = NULL,
        since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id;
    UPDATE tasks SET shards_left = shards_left WHERE run_id = NEW.run_id AND shard = -1 AND by_shard;
END;

DROP TRIGGER events_follow_shard_started;

CREATE TRIGGER events_follow_shard_started
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'shard_started'
BEGIN
    UPDATE tasks
    SET state = 'held',
        attempt = coalesce(CAST(NEW.payload AS TEXT) ->> '$.shard_attempt', 1),
        token = coalesce(CAST(NEW.payload AS TEXT) ->> '$.shard_attempt', 1),
        worker = CAST(NEW.payload AS TEXT) ->> '$.worker',
        deadline = NULL,
        available_at = NULL,
        since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id AND shard = CAST(NEW.payload AS TEXT) ->> '$.shard';
END;

DROP TRIGGER events_follow_shard_completed;

CREATE TRIGGER events_follow_shard_completed
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'shard_completed'
BEGIN
    UPDATE tasks
    SET state = 'done'
    WHERE run_id = NEW.run_id
        AND shard = CAST(NEW.payload AS TEXT) ->> '$.shard'
        AND shard >= 0
        AND attempt <= coalesce(CAST(NEW.payload AS TEXT) ->> '$.shard_attempt', 1);
    DELETE FROM tasks WHERE run_id = NEW.run_id AND state = 'done';
    UPDATE tasks
    SET shards_left = shards_left - 1
    WHERE run_id = NEW.run_id AND shard = -1 AND CAST(NEW.payload AS TEXT) ->> '$.shard' IS NULL;
END;

DROP TRIGGER events_follow_shard_retried;

CREATE TRIGGER events_follow_shard_retried
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'shard_retried'
BEGIN
    UPDATE tasks
    SET shards_left = shards_left + 1,
        is_finalizing = 0,
        deadline = NULL,
        available_at = NULL,
        state = iif(token IS NOT NULL AND NOT by_shard, 'held', 'idle')
    WHERE run_id = NEW.run_id
        AND shard = -1
        AND shard_count IS NOT NULL
        AND NOT EXISTS (
            SELECT 1 FROM tasks AS t WHERE t.run_id = NEW.run_id AND t.shard = CAST(NEW.payload AS TEXT) ->> '$.shard'
        );
    INSERT OR REPLACE INTO tasks
        (run_id, shard, kind, project, priority, enqueued, state, available_at, attempt, abort_requested, abort_by)
    SELECT
        run_id, said ->> '$.shard', kind, project, priority, enqueued,
        CASE
            WHEN state = 'held' THEN 'held'
            WHEN said ->> '$.retry_at' IS NULL THEN 'waiting'
            ELSE 'scheduled'
        END,
        CAST(unixepoch(said ->> '$.retry_at', 'subsec') * 1000 AS INTEGER),
        said ->> '$.shard_attempt', abort_requested, abort_by
    FROM tasks
    CROSS JOIN (SELECT CAST(NEW.payload AS TEXT) AS said)
    WHERE run_id = NEW.run_id AND shard = -1 AND shard_count IS NOT NULL;
END;

DROP TRIGGER events_follow_attempt_failed;

CREATE TRIGGER events_follow_attempt_failed
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'attempt_failed'
BEGIN
    UPDATE tasks
    SET token = NULL,
        worker = NULL,
        deadline = NULL,
        is_finalizing = 0,
        by_shard = 0,
        available_at = CAST(unixepoch(CAST(NEW.payload AS TEXT) ->> '$.retry_at', 'subsec') * 1000 AS INTEGER),
        state = CASE
            WHEN shard_count IS NOT NULL THEN 'idle'
            WHEN CAST(NEW.payload AS TEXT) ->> '$.retry_at' IS NULL THEN 'waiting'
            ELSE 'scheduled'
        END,
        since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id AND shard = -1;
    INSERT INTO tasks_laid_out (run_id, state, available_at)
    SELECT run_id, iif(available_at IS NULL, 'waiting', 'scheduled'), available_at
    FROM tasks
    WHERE run_id = NEW.run_id AND shard = -1 AND shard_count IS NOT NULL;
END;

DROP TRIGGER events_follow_interrupted;

CREATE TRIGGER events_follow_interrupted
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'interrupted'
BEGIN
    UPDATE tasks
    SET state = 'held',
        worker = NULL,
        deadline = NULL,
        available_at = NULL,
        since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id;
END;

DROP TRIGGER events_follow_abort_requested;

CREATE TRIGGER events_follow_abort_requested
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'abort_requested'
BEGIN
    UPDATE tasks
    SET abort_requested = 1,
        abort_by = coalesce(
            abort_by, CAST(unixepoch(CAST(NEW.payload AS TEXT) ->> '$.deadline', 'subsec') * 1000 AS INTEGER)
        )
    WHERE run_id = NEW.run_id;
END;

DROP TRIGGER events_follow_finalization_started;

CREATE TRIGGER events_follow_finalization_started
INSTEAD OF INSERT ON events_followed
WHEN NEW.type = 'finalization_started'
BEGIN
    UPDATE tasks
    SET is_finalizing = 1,
        token = NEW.version,
        worker = CAST(NEW.payload AS TEXT) ->> '$.worker',
        state = 'scheduled',
        available_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + 60000,
        deadline = NULL,
        since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id AND shard = -1 AND shards_left <= 0;
END;

-- Comparisons, since a list after IN is made a table anew at each event. They name what there is most of; what nobody
-- follows and is not among them is passed over by the triggers above.
CREATE TRIGGER events_follow
AFTER INSERT ON events
WHEN NEW.type <> 'shard_result_appended'
    AND NEW.type <> 'log_appended'
    AND NEW.type <> 'stats_incremented'
    AND NEW.type <> 'annotated'
BEGIN
    INSERT INTO events_followed (position, run_id, version, type, payload, closes)
    VALUES (NEW.position, NEW.run_id, NEW.version, NEW.type, NEW.payload, NEW.closes);
END;
