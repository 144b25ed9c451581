-- Named readers of the log. The log is the truth; these tables say who has handled it up to where.

CREATE TABLE consumers (
    name       TEXT    NOT NULL PRIMARY KEY,
    wanted     TEXT    NOT NULL, -- its filter, as JSON
    partitions INTEGER NOT NULL,
    created_at TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE consumer_places (
    name       TEXT    NOT NULL,
    partition  INTEGER NOT NULL,
    position   INTEGER NOT NULL, -- the checkpoint
    token      INTEGER NOT NULL, -- of the latest loan; it grows
    lent_up_to INTEGER, -- where the batch ends that a reader has, or had and did not acknowledge
    deadline   REAL, -- seconds since 1970; afterwards the batch goes to another
    PRIMARY KEY (name, partition)
) STRICT, WITHOUT ROWID;
