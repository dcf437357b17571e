"""What tables and views does a study's database have, and how is an old one upgraded?

The tables hold what is exact; the views are for people, and vtune reads none of them.
"""

import sqlite3
from collections.abc import Callable

from vtune.storage.failure import PUT_BACK, StorageError


# "vtun" in ASCII: tells `file` and vtune that a database is a study's.
APPLICATION_ID = 0x7674756E

# `checksum` is the CRC-32 of the JSON list of the table's name and all other values.
_TABLES = """
CREATE TABLE study (
    settings TEXT NOT NULL,     -- JSON
    fingerprint TEXT NOT NULL,  -- JSON
    data TEXT NOT NULL,         -- JSON
    checksum INTEGER NOT NULL
);
CREATE TABLE trial_rows (
    sequence INTEGER NOT NULL,
    number INTEGER NOT NULL PRIMARY KEY,
    "values" TEXT NOT NULL,     -- JSON by name
    parameters TEXT NOT NULL,   -- JSON
    bracket INTEGER NOT NULL,
    budget INTEGER NOT NULL,
    digest TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE epoch_rows (
    sequence INTEGER NOT NULL,
    trial INTEGER NOT NULL REFERENCES trial_rows (number),
    epoch INTEGER NOT NULL,
    metrics TEXT NOT NULL,      -- JSON by name
    finite INTEGER NOT NULL,    -- 0 or 1
    program TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (trial, epoch)
) WITHOUT ROWID;
CREATE TABLE decisions (
    sequence INTEGER NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    trials TEXT NOT NULL,       -- JSON
    content TEXT NOT NULL,      -- JSON
    checksum INTEGER NOT NULL
);
CREATE TABLE events (
    time REAL NOT NULL,         -- seconds since 1970, UTC
    kind TEXT NOT NULL,
    text TEXT NOT NULL,         -- JSON
    checksum INTEGER NOT NULL
);
CREATE TABLE checkpoints (
    name TEXT NOT NULL PRIMARY KEY,
    sequence INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    models TEXT NOT NULL,       -- JSON
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE seals (
    name TEXT NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL,
    total INTEGER NOT NULL,     -- of the checksums, modulo 2**32
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
"""

# A float as a plain number: NaN is NULL, since SQL has none.
_PLAIN = """CASE WHEN type <> 'object' THEN value
        WHEN json_extract(value, '$."$float"') = 'inf' THEN 9e999
        WHEN json_extract(value, '$."$float"') = '-inf' THEN -9e999
    END"""

_VIEWS = f"""
CREATE VIEW metrics AS
SELECT
    trial,
    epoch,
    key AS metric,
    {_PLAIN} AS value
FROM epoch_rows, json_each(metrics);

CREATE VIEW trials AS
SELECT
    number,
    bracket,
    coalesce((
        SELECT max(json_extract(content, '$.epochs'))
        FROM decisions, json_each(decisions.trials) AS promoted
        WHERE kind = 'promote' AND promoted.value = number
    ), budget) AS budget,
    (SELECT count(*) FROM epoch_rows WHERE trial = number) AS epochs,
    coalesce((
        SELECT coalesce(json_extract(content, '$.status'), 'failed')
        FROM decisions, json_each(decisions.trials) AS ended
        WHERE kind IN ('stop', 'fail') AND ended.value = number
    ), (
        SELECT 'diverged' FROM epoch_rows WHERE trial = number AND NOT finite
    ), 'running') AS status,
    "values"
FROM trial_rows;

CREATE VIEW rungs AS
WITH reached (trial, epochs) AS (
    SELECT number, budget FROM trial_rows
    UNION
    SELECT promoted.value, json_extract(content, '$.epochs')
    FROM decisions, json_each(decisions.trials) AS promoted
    WHERE kind = 'promote'
), scores (trial, epoch, value, direction) AS (
    SELECT trial, epoch, value, json_extract(settings, '$.objective[1]')
    FROM metrics, study
    WHERE metric = json_extract(settings, '$.objective[0]') AND abs(value) < 9e999
)
SELECT
    bracket,
    epochs,
    count(*) AS trials,
    count(value) AS finished,
    CASE max(direction) WHEN 'max' THEN max(value) WHEN 'min' THEN min(value) END
        AS best
FROM reached
JOIN trial_rows ON number = reached.trial
LEFT JOIN scores ON scores.trial = reached.trial AND scores.epoch = reached.epochs
GROUP BY bracket, epochs;
"""

# What makes a database of version n, counted from 1, one of version n + 1.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], object], ...] = ()


def create_schema(connection: sqlite3.Connection) -> None:
    """Makes the tables and views of a new database.

    Args:
        connection: to an empty database; the caller commits.
    """
    for statement in (_TABLES + _VIEWS).split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    _migrate(connection)


def upgrade(
    connection: sqlite3.Connection, writable: bool, before: Callable[[str], None]
) -> None:
    """Upgrades a database that has an older version.

    Args:
        connection: to the database; what is not committed when it is closed is undone.
        writable: whether it may be upgraded.
        before: is told of an upgrade before it.

    Raises:
        StorageError: if its version is not known, or it may not be upgraded.
    """
    found, newest = _version(connection), _newest_version()
    if found == newest:
        return
    if not writable:
        raise StorageError(
            f"it has version {found}, and this vtune reads version {newest}. "
            "Go on with the study once: that upgrades it."
        )
    before("upgrade")
    connection.execute("BEGIN IMMEDIATE")
    _migrate(connection)
    connection.execute("COMMIT")


def check_schema(connection: sqlite3.Connection) -> None:
    """Refuses a database that does not have a study's tables, or does more than hold.

    Views and indexes of the user's own are let be: they run when the user asks.

    Args:
        connection: to a database of the newest version.

    Raises:
        StorageError: if a table is missing, or has other columns or a hidden one, or
            there is a trigger.
    """
    for name, columns in _expected_columns().items():
        kinds = connection.execute(
            "SELECT type FROM sqlite_master WHERE name = ? "
            "AND sql NOT LIKE 'CREATE VIRTUAL%'",
            (name,),
        ).fetchall()
        found = connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
        if kinds != [("table",)] or found != columns:
            raise StorageError(
                f"it has no table `{name}` as vtune makes it. {PUT_BACK}."
            )
    trigger = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchone()
    if trigger:
        raise StorageError(
            f"it has a trigger, {trigger[0]!r}, which vtune did not make."
        )


def _version(connection: sqlite3.Connection) -> int:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = _newest_version()
    if found > newest:
        raise StorageError(
            f"a newer vtune wrote it. It has version {found}, and this vtune knows "
            f"versions up to {newest}. Upgrade vtune."
        )
    if found < 1:
        raise StorageError(
            f"its version is {found}, which vtune never wrote. {PUT_BACK}."
        )
    return found


def _newest_version() -> int:
    return 1 + len(MIGRATIONS)


def _migrate(connection: sqlite3.Connection) -> None:
    for number in range(_version(connection), _newest_version()):
        MIGRATIONS[number - 1](connection)
        connection.execute(f"PRAGMA user_version = {number + 1}")


def _expected_columns() -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(":memory:")
    try:
        create_schema(connection)
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        return {
            name: connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
            for (name,) in names
        }
    finally:
        connection.close()
