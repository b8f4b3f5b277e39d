-- Times are milliseconds since 1970. Numbers that SQL never compares are in the `head` of a task (codec of the crate
-- `store`), which keeps its length, so that a transition overwrites its row in place.

CREATE TABLE partition (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    last_index INTEGER NOT NULL,
    wall INTEGER NOT NULL,
    seq INTEGER NOT NULL
) STRICT;

CREATE TABLE task (
    tenant INTEGER NOT NULL,
    id BLOB NOT NULL,
    queue INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    lane INTEGER,           -- set while it waits in the ready index
    ord INTEGER,            -- its place in the lane; set with `lane`
    timer INTEGER,          -- stored deadline; set while it is not running and not over
    live INTEGER,           -- 1 running, 10 + state otherwise; null when queued or succeeded
    head BLOB NOT NULL,
    spec BLOB NOT NULL,     -- empty = nothing special was asked for
    input BLOB,
    ending BLOB,            -- of the last attempt that ended, without its result
    result BLOB,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

CREATE INDEX task_ready ON task (queue, lane, ord) WHERE lane IS NOT NULL;
CREATE INDEX task_timer ON task (timer, id) WHERE timer IS NOT NULL;
CREATE INDEX task_live ON task (live, tenant, id) WHERE live IS NOT NULL;

-- Parts of a task that are too long for its row. Written once per value.
CREATE TABLE payload (
    tenant INTEGER NOT NULL,
    id BLOB NOT NULL,
    part INTEGER NOT NULL,  -- 1 input, 2 result, 3 ending
    bytes BLOB NOT NULL,
    PRIMARY KEY (tenant, id, part)
) WITHOUT ROWID;

-- What a task can be found by: a hash of a label, a correlation id or a workflow id. Only tasks that have some pay.
CREATE TABLE mark (
    tenant INTEGER NOT NULL,
    mark INTEGER NOT NULL,
    id BLOB NOT NULL,
    PRIMARY KEY (tenant, mark, id)
) WITHOUT ROWID;

CREATE TABLE attempt (
    tenant INTEGER NOT NULL,
    id BLOB NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, id, number)
) WITHOUT ROWID;

-- Idempotency keys, packed and only ever appended: random keys in a B-tree would dirty a page each. Which row has a
-- key is known in memory (see keys.rs).
CREATE TABLE key_page (
    page INTEGER PRIMARY KEY,
    hour INTEGER NOT NULL,  -- of expiry
    entries BLOB NOT NULL
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
