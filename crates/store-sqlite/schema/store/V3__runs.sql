-- Durable runs. Rows that may be longer than a quarter of a page have ids of their own: see V2.

-- A run as it was last written whole: what lists show is at the beginning of the head.
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,      -- tenant, run
    live INTEGER,           -- phase, if it is one that few runs stay in: any but completed
    ended INTEGER,          -- wall time of its end
    changed INTEGER NOT NULL,
    turns INTEGER NOT NULL, -- in the head
    marks BLOB NOT NULL,    -- what it is in run_mark by, 8 bytes each
    head BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX run_key ON run (key);
CREATE INDEX run_live ON run (live, key) WHERE live IS NOT NULL;
CREATE INDEX run_ended ON run (ended) WHERE ended IS NOT NULL;

-- What a run can be found by: a hash of its workflow, correlation id, parent, or a search attribute.
CREATE TABLE run_mark (
    mark INTEGER NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (mark, key)
) WITHOUT ROWID;

-- Turns: only ever appended. Long ones are in run_long, so that these rows stay packed.
CREATE TABLE run_turn (
    key BLOB NOT NULL PRIMARY KEY,  -- tenant, run, turn
    body BLOB,
    long INTEGER
) WITHOUT ROWID;

-- What came for a run and was not taken in yet.
CREATE TABLE run_event (
    key BLOB NOT NULL PRIMARY KEY,  -- tenant, run, number
    body BLOB,
    long INTEGER
) WITHOUT ROWID;

CREATE TABLE run_long (
    id INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE run_timer (
    key BLOB NOT NULL PRIMARY KEY,  -- tenant, run, entry
    due BLOB NOT NULL               -- due time, run, entry, tenant
) WITHOUT ROWID;

CREATE UNIQUE INDEX run_timer_due ON run_timer (due);

-- Values that are too large to be carried along in runs, by tenant and the SHA-256 of their JSON text.
CREATE TABLE value (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    bytes BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX value_key ON value (key);
