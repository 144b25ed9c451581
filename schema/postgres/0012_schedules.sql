-- Runs that are asked for at set times. An occurrence is a run like any other; these tables only say when the next is.

CREATE TABLE runfold.schedules (
    name       text COLLATE "C" NOT NULL PRIMARY KEY,
    cron       text COLLATE "C" NOT NULL,
    timezone   text COLLATE "C" NOT NULL,
    request    text COLLATE "C" NOT NULL, -- JSON: kind, project, input, labels … of the runs
    missed     text COLLATE "C" NOT NULL CHECK (missed IN ('latest', 'all', 'skip')),
    is_paused  integer          NOT NULL CHECK (is_paused IN (0, 1)),
    next_at    text COLLATE "C" NOT NULL, -- the occurrence that comes next
    created_at text COLLATE "C" NOT NULL
);

CREATE INDEX schedules_due ON runfold.schedules (next_at) WHERE is_paused = 0;

CREATE TABLE runfold.schedule_changes (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    change     text COLLATE "C" NOT NULL,
    changed_at text COLLATE "C" NOT NULL,
    actor      text COLLATE "C",
    schedule   text COLLATE "C" NOT NULL -- JSON: as it was after the change; of a removed one, before
);

CREATE INDEX schedule_changes_name ON runfold.schedule_changes (name, number);
