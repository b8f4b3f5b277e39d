-- What names a value: the key of a run or a task, or that of a value with its hash in its text. A value goes with the last thing
-- that names it.
CREATE TABLE value_name (
    value BLOB NOT NULL,    -- tenant, hash
    namer BLOB NOT NULL,
    PRIMARY KEY (value, namer)
) WITHOUT ROWID;

CREATE INDEX value_name_namer ON value_name (namer);

-- Nobody wrote down what names those that are there: they stay.
INSERT INTO value_name (value, namer) SELECT key, x'' FROM value;
