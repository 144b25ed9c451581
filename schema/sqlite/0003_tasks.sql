-- What there is to do: one row for each run and each shard that is not done, and who holds it.
--
-- What cannot be seen in the columns:
-- * The rows follow the log, event by event, in the transaction that appends the event: triggers do it, so whatever
--   appends leaves log and tasks agreeing. Only `deadline` is more than the log says, for heartbeats are no events.
-- * `shard` -1 is the run: the whole of it, or, when it is cut into shards, its finalization once `shards_left` is 0.
-- * `state`: `waiting` may be claimed now, `scheduled` at `available_at`, `held` is somebody's (a lease when there is a
--   deadline), `idle` waits for other rows of its run.
-- * Rows go with the run's closing event, so the table is as large as what is left to do, not as what was ever done.
-- * `enqueued` is the position of the run's first event: among equals, the older goes first.
-- * Times are milliseconds since 1970, by the machine's clock.

CREATE TABLE tasks (
    run_id          TEXT    NOT NULL,
    shard           INTEGER NOT NULL,
    kind            TEXT    NOT NULL,
    project         TEXT,
    priority        INTEGER NOT NULL,
    enqueued        INTEGER NOT NULL,
    state           TEXT    NOT NULL,
    available_at    INTEGER,
    attempt         INTEGER NOT NULL,
    shard_count     INTEGER,
    shards_left     INTEGER,
    by_shard        INTEGER NOT NULL DEFAULT 0,
    is_finalizing   INTEGER NOT NULL DEFAULT 0,
    token           INTEGER,
    worker          TEXT,
    deadline        INTEGER,
    abort_requested INTEGER NOT NULL DEFAULT 0,
    abort_by        INTEGER,
    since           INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    PRIMARY KEY (run_id, shard)
) STRICT, WITHOUT ROWID;

CREATE INDEX tasks_waiting ON tasks (kind, priority DESC, enqueued, shard) WHERE state = 'waiting';

CREATE INDEX tasks_scheduled ON tasks (available_at) WHERE state = 'scheduled';

CREATE INDEX tasks_deadline ON tasks (deadline) WHERE deadline IS NOT NULL;

CREATE INDEX tasks_abort_by ON tasks (abort_by) WHERE abort_by IS NOT NULL;

-- Puts the shards of a run there, all of them undone. Triggers know no loops and no WITH: an array of as many zeros as
-- there are shards counts them.
CREATE VIEW tasks_laid_out AS
SELECT run_id, state, available_at FROM tasks WHERE shard = -1;

CREATE TRIGGER tasks_lay_out
INSTEAD OF INSERT ON tasks_laid_out
BEGIN
    DELETE FROM tasks WHERE run_id = NEW.run_id AND shard >= 0;
    INSERT INTO tasks
        (run_id, shard, kind, project, priority, enqueued, state, available_at, attempt, abort_requested, abort_by)
    SELECT run.run_id, number.key, run.kind, run.project, run.priority, run.enqueued, NEW.state, NEW.available_at, 1,
        run.abort_requested, run.abort_by
    FROM tasks AS run
    CROSS JOIN json_each('[' || substr(replace(hex(zeroblob(run.shard_count)), '00', ',0'), 2) || ']') AS number
    WHERE run.run_id = NEW.run_id AND run.shard = -1 AND run.shard_count > 0;
    UPDATE tasks SET shards_left = shard_count WHERE run_id = NEW.run_id AND shard = -1;
END;

-- Lets a run be finalized once its shards are done: at once where workers take the shards one by one, else after a
-- while (a minute) in which whoever executes it is expected to.
CREATE TRIGGER tasks_offer_finalization
AFTER UPDATE OF shards_left ON tasks
WHEN NEW.shard = -1 AND NEW.shards_left <= 0 AND NEW.attempt > 0 AND NOT NEW.is_finalizing
BEGIN
    UPDATE tasks
    SET is_finalizing = 1,
        state = iif(by_shard, 'waiting', 'scheduled'),
        available_at = iif(by_shard, NULL, CAST(unixepoch('subsec') * 1000 AS INTEGER) + 60000),
        deadline = NULL,
        since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id AND shard = -1;
END;

CREATE TRIGGER events_follow_closing
AFTER INSERT ON events
WHEN NEW.closes = 1
BEGIN
    DELETE FROM tasks WHERE run_id = NEW.run_id;
END;

CREATE TRIGGER events_follow_enqueued
AFTER INSERT ON events
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

CREATE TRIGGER events_follow_released
AFTER INSERT ON events
WHEN NEW.type = 'released'
BEGIN
    UPDATE tasks
    SET state = 'waiting', available_at = NULL, since = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE run_id = NEW.run_id AND state = 'scheduled';
END;

CREATE TRIGGER events_follow_started
AFTER INSERT ON events
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

CREATE TRIGGER events_follow_resumed
AFTER INSERT ON events
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

CREATE TRIGGER events_follow_shard_started
AFTER INSERT ON events
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

-- Taking the shard's row away counts; completing what is not there does not.
CREATE TRIGGER tasks_follow_shard_done
AFTER DELETE ON tasks
WHEN OLD.shard >= 0 AND OLD.state = 'done'
BEGIN
    UPDATE tasks SET shards_left = shards_left - 1 WHERE run_id = OLD.run_id AND shard = -1;
END;

CREATE TRIGGER events_follow_shard_completed
AFTER INSERT ON events
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

CREATE TRIGGER events_follow_shard_retried
AFTER INSERT ON events
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

CREATE TRIGGER events_follow_attempt_failed
AFTER INSERT ON events
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

CREATE TRIGGER events_follow_interrupted
AFTER INSERT ON events
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

CREATE TRIGGER events_follow_abort_requested
AFTER INSERT ON events
WHEN NEW.type = 'abort_requested'
BEGIN
    UPDATE tasks
    SET abort_requested = 1,
        abort_by = coalesce(
            abort_by, CAST(unixepoch(CAST(NEW.payload AS TEXT) ->> '$.deadline', 'subsec') * 1000 AS INTEGER)
        )
    WHERE run_id = NEW.run_id;
END;

CREATE TRIGGER events_follow_finalization_started
AFTER INSERT ON events
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
