-- Times that end in _at are nanoseconds since 1970; commit times are seconds. Words (states, kinds) are spelled as the
-- API spells them. What is only ever read whole stands as JSON in one column; what is searched has a column of its own.
--
-- Nothing refers to instances by a foreign key: backups, timelines and chunks outlive the instance they come from, since
-- the repository they index does.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    sha256 TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    fault TEXT,
    server TEXT NOT NULL,
    datastore TEXT NOT NULL,
    version TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE backups (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    status TEXT NOT NULL,
    fault TEXT,
    datastore TEXT NOT NULL,
    strategy TEXT NOT NULL,
    server_version TEXT NOT NULL,
    raw_bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    location TEXT,
    checksum TEXT,
    end TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX backups_by_age ON backups (created_at, id);
CREATE INDEX backups_of_instance ON backups (instance, created_at, id);

CREATE TABLE tasks (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of the queue
    id TEXT NOT NULL UNIQUE,
    instance TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    progress TEXT NOT NULL,
    error TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
-- One running task per instance is a fact, whatever the code believes.
CREATE UNIQUE INDEX tasks_running ON tasks (instance) WHERE state = 'RUNNING';
CREATE INDEX tasks_queued ON tasks (sequence) WHERE state = 'QUEUED';
CREATE INDEX tasks_of_instance ON tasks (instance, sequence);

CREATE TABLE timelines (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    number INTEGER NOT NULL,
    timeline TEXT NOT NULL,
    UNIQUE (instance, number)
) STRICT;

CREATE TABLE chunks (
    sequence INTEGER PRIMARY KEY, -- chunks of a timeline come in order, so they lie side by side
    instance TEXT NOT NULL,
    timeline TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    begin_position INTEGER NOT NULL,
    end_position INTEGER NOT NULL,
    first_commit INTEGER,
    last_commit INTEGER,
    has_gap INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    key TEXT NOT NULL,
    facts TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX chunks_by_place ON chunks (timeline, ordinal, end_position);
CREATE INDEX chunks_by_commit ON chunks (timeline, last_commit, ordinal, end_position) WHERE last_commit IS NOT NULL;
CREATE INDEX chunks_with_gap ON chunks (instance, sequence) WHERE has_gap = 1;

-- Which chunk holds a GTID. `stream` is whose counter it is from: `0-11` (MariaDB's domain and server), `uuid[:tag]`
-- (MySQL's server). `width` is the number of bits of `last - first`: among ranges of one width those that can
-- hold a sequence number begin at most 2^width below it, so a look-up is one short index range per width, whatever the
-- ranges and however many there are.
CREATE TABLE chunk_ranges (
    instance TEXT NOT NULL,
    stream TEXT NOT NULL,
    width INTEGER NOT NULL,
    first INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (instance, stream, width, first, chunk)
) STRICT, WITHOUT ROWID;

-- Sums kept with each insert: counting a million rows for a status page would take longer than the page may.
CREATE TABLE chunk_totals (
    timeline TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    chunks INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    transactions INTEGER NOT NULL,
    first_commit INTEGER,
    last_commit INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_totals_of_instance ON chunk_totals (instance);

CREATE TABLE recoveries (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    state TEXT NOT NULL,
    is_settled INTEGER NOT NULL,
    pause INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    abort_asked INTEGER NOT NULL,
    fault TEXT,
    outcome TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX recoveries_unsettled ON recoveries (instance) WHERE is_settled = 0;
CREATE INDEX recoveries_of_instance ON recoveries (instance, created_at, id);

-- Apart from its recovery: a plan may name 100 000 chunks, and the row beside it is rewritten at every step.
CREATE TABLE recovery_plans (
    recovery TEXT PRIMARY KEY REFERENCES recoveries (id) ON DELETE CASCADE,
    plan TEXT NOT NULL
) STRICT;

CREATE TABLE shipping (
    instance TEXT PRIMARY KEY,
    status TEXT NOT NULL
) STRICT, WITHOUT ROWID;
