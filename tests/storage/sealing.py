"""Checksums and seals as the schema describes them, made without any code of vtune's.

A stranger can write any values at all and have the right checksums beside them.
"""

import contextlib
import json
import sqlite3
import zlib


def checksum(table, values):
    """What the column `checksum` holds beside the other values of a row."""
    return zlib.crc32(json.dumps([table, *values], default=repr).encode())


def seal(path):
    """Gives all rows of a database their checksums, and all tables their seals."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.text_factory = lambda data: data.decode(errors="replace")
        tables = connection.execute("SELECT name FROM seals").fetchall()
        for (name,) in tables:
            found = seal_rows(connection, name)
            connection.execute(
                "UPDATE seals SET count = ?, total = ? WHERE name = ?",
                (len(found), sum(found) % 2**32, name),
            )
        seal_rows(connection, "seals")


def seal_rows(connection, table):
    """Gives the rows of a table their checksums, and returns these."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    rows = connection.execute(f"SELECT * FROM {table}").fetchall()
    given = []
    for row in rows:
        values = dict(zip(columns, row, strict=True))
        del values["checksum"]
        given.append(checksum(table, values.values()))
        same = " AND ".join(f'"{name}" IS ?' for name in values)
        connection.execute(
            f"UPDATE {table} SET checksum = ? WHERE {same}",
            (given[-1], *values.values()),
        )
    return given
