-- Which roles have been given the duties of writing, reading and erasing, so that later migrations grant them what they
-- need on what they make. `runfold db roles` fills it.

CREATE TABLE runfold.roles (
    duty text COLLATE "C" NOT NULL PRIMARY KEY CHECK (duty IN ('writer', 'reader', 'eraser')),
    role text COLLATE "C" NOT NULL
);
