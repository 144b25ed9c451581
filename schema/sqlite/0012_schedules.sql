-- Runs that are asked for at set times. An occurrence is a run like any other; these tables only say when the next is.

CREATE TABLE schedules (
    name       TEXT    NOT NULL PRIMARY KEY,
    cron       TEXT    NOT NULL,
    timezone   TEXT    NOT NULL,
    request    TEXT    NOT NULL, -- JSON: kind, project, input, labels … of the runs
    missed     TEXT    NOT NULL CHECK (missed IN ('latest', 'all', 'skip')),
    is_paused  INTEGER NOT NULL CHECK (is_paused IN (0, 1)),
    next_at    TEXT    NOT NULL, -- the occurrence that comes next
    created_at TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX schedules_due ON schedules (next_at) WHERE is_paused = 0;

CREATE TABLE schedule_changes (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    change     TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    actor      TEXT,
    schedule   TEXT NOT NULL -- JSON: as it was after the change; of a removed one, before
) STRICT;

CREATE INDEX schedule_changes_name ON schedule_changes (name, number);
