-- Bytes that sort as what they stand for: see src/layout.rs. Times are milliseconds since 1970.

CREATE TABLE partition (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    last_index INTEGER NOT NULL,
    wall INTEGER NOT NULL,
    seq INTEGER NOT NULL
) STRICT;

-- Only what an index needs is a column of its own. The rest is in `head`, which keeps its length, so that a transition
-- overwrites its row in place and opens no index it does not change.
CREATE TABLE task (
    key BLOB NOT NULL PRIMARY KEY,  -- tenant, id
    ready BLOB,             -- queue, lane, order; set while it waits in the ready index
    timer BLOB,             -- stored deadline, id; set while it is not running and not over
    live INTEGER,           -- state, if it is one that few tasks are in and no other index finds
    head BLOB NOT NULL,
    spec BLOB NOT NULL,     -- empty = nothing special was asked for
    input BLOB,
    ending BLOB,            -- of the last attempt that ended, without its result
    result BLOB
) WITHOUT ROWID;

CREATE INDEX task_ready ON task (ready) WHERE ready IS NOT NULL;
CREATE INDEX task_timer ON task (timer) WHERE timer IS NOT NULL;
CREATE INDEX task_live ON task (live) WHERE live IS NOT NULL;

-- Keys of tasks that were granted, one row per transaction, until all of them are over: see src/running.rs.
CREATE TABLE running_page (
    page INTEGER PRIMARY KEY,
    keys BLOB NOT NULL
) STRICT;

-- Parts of a task that are too long for its row. Written once per value.
CREATE TABLE payload (
    key BLOB NOT NULL,
    part INTEGER NOT NULL,  -- 1 input, 2 result, 3 ending
    bytes BLOB NOT NULL,
    PRIMARY KEY (key, part)
) WITHOUT ROWID;

-- What a task can be found by: a hash of a label, a correlation id or a workflow id. Only tasks that have some pay.
CREATE TABLE mark (
    mark INTEGER NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (mark, key)
) WITHOUT ROWID;

CREATE TABLE attempt (
    key BLOB NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (key, number)
) WITHOUT ROWID;

-- Idempotency keys, packed and only ever appended: see src/keys.rs.
CREATE TABLE key_page (
    page INTEGER PRIMARY KEY,
    hour INTEGER NOT NULL,  -- of expiry
    entries BLOB NOT NULL
) STRICT;

-- Keys that no longer fit into memory: pages sorted by fingerprint, and one head for each run of them.
CREATE TABLE key_run_page (
    page INTEGER PRIMARY KEY,
    entries BLOB NOT NULL
) STRICT;

CREATE TABLE key_run (
    run INTEGER PRIMARY KEY,
    hour INTEGER NOT NULL,
    first_page INTEGER NOT NULL,
    pages INTEGER NOT NULL,
    fences BLOB,            -- the first fingerprint of each page; null while the run is not complete, or is going
    filter BLOB
) STRICT;

CREATE TABLE name (
    kind INTEGER NOT NULL,
    tenant INTEGER NOT NULL,
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (kind, tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE queue (
    id INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    config BLOB NOT NULL
) STRICT;

CREATE TABLE tenant (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    config BLOB NOT NULL
) STRICT;

CREATE TABLE rate (
    kind INTEGER NOT NULL,  -- 1 queue, 2 tenant
    id INTEGER NOT NULL,
    tat_us INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

-- Tasks of a queue by state number.
CREATE TABLE count (
    queue INTEGER PRIMARY KEY,
    s0 INTEGER NOT NULL,
    s1 INTEGER NOT NULL,
    s2 INTEGER NOT NULL,
    s3 INTEGER NOT NULL,
    s4 INTEGER NOT NULL,
    s5 INTEGER NOT NULL,
    s6 INTEGER NOT NULL,
    s7 INTEGER NOT NULL,
    s8 INTEGER NOT NULL
) STRICT;

CREATE TABLE record (
    kind INTEGER NOT NULL,
    tenant INTEGER NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, tenant, key)
) STRICT, WITHOUT ROWID;

-- For people who open the file: tasks as text.
CREATE VIEW task_text AS
SELECT
    lower(hex(substr(key, 5))) AS id,
    CASE unicode(substr(head, 2, 1))
        WHEN 1 THEN 'queued' WHEN 2 THEN 'running' WHEN 3 THEN 'waiting' WHEN 4 THEN 'succeeded' WHEN 5 THEN 'failed'
        WHEN 6 THEN 'dead' WHEN 7 THEN 'cancelled' WHEN 8 THEN 'expired' ELSE 'scheduled'
    END AS state,
    CAST(substr(input, 2) AS TEXT) AS input,
    CAST(substr(result, 2) AS TEXT) AS result
FROM task;
