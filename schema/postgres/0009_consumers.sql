-- Named readers of the log. The log is the truth; these tables say who has handled it up to where.

CREATE TABLE runfold.consumers (
    name       text COLLATE "C" NOT NULL PRIMARY KEY,
    wanted     text COLLATE "C" NOT NULL, -- its filter, as JSON
    partitions integer NOT NULL,
    created_at text COLLATE "C" NOT NULL
);

CREATE TABLE runfold.consumer_places (
    name       text COLLATE "C" NOT NULL REFERENCES runfold.consumers ON DELETE CASCADE,
    partition  integer NOT NULL,
    position   bigint NOT NULL, -- the checkpoint
    token      bigint NOT NULL, -- of the latest loan; it grows
    lent_up_to bigint, -- where the batch ends that a reader has, or had and did not acknowledge
    deadline   double precision, -- seconds since 1970; afterwards the batch goes to another
    PRIMARY KEY (name, partition)
);
