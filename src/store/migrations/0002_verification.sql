-- What was read again of what is stored, object by object. An object that was never read again has no row.
CREATE TABLE verified_objects (
    sequence INTEGER PRIMARY KEY, -- keys are long: the other indexes name this instead
    key TEXT NOT NULL UNIQUE,
    instance TEXT NOT NULL,
    backup TEXT, -- whose manifest or part it is
    stored_bytes INTEGER NOT NULL,
    verified_at INTEGER NOT NULL,
    bad TEXT -- what is wrong with it, if anything is
) STRICT;
CREATE INDEX verified_by_age ON verified_objects (instance, verified_at);
CREATE INDEX verified_of_backup ON verified_objects (backup, verified_at) WHERE backup IS NOT NULL;
CREATE INDEX verified_bad ON verified_objects (instance, sequence) WHERE bad IS NOT NULL;

-- Sums kept with each finding, as in chunk_totals and for its reason.
CREATE TABLE verified_totals (
    instance TEXT PRIMARY KEY,
    objects INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    bad INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE verified_backups (
    backup TEXT PRIMARY KEY,
    objects INTEGER, -- what it consists of; not known before its manifest was read
    verified INTEGER NOT NULL,
    bad INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The last verification of a backup or of an instance, by its id: asked for, and by schedule.
CREATE TABLE verification_runs (
    subject TEXT NOT NULL,
    is_scheduled INTEGER NOT NULL,
    run TEXT NOT NULL,
    PRIMARY KEY (subject, is_scheduled)
) STRICT, WITHOUT ROWID;
