"""Reads the archive of a log with readers that are not Tidemark's, and prints as JSON what each of them finds.

usage: read_table.py TABLE METADATA FIRST LAST
TABLE: the table's folder; METADATA: the metadata file of its latest version; FIRST, LAST: a range of times, RFC 3339, LAST not included
"""

import hashlib
import json
import sys

import pandas
from pyiceberg.table import StaticTable

from duckdb_connection import connect

COLUMNS = ["token", "op", "time", "outcome", "size", "entry_time", "payload", "entry_bytes"]


def figures(rows):
    """What the rows, a pandas frame, come to."""
    rows = rows.sort_values(["token", "op"])
    bodies = hashlib.sha256()
    for body in rows["entry_bytes"]:
        if isinstance(body, (bytes, bytearray)):
            bodies.update(body)
    return {
        "rows": len(rows),
        "size": int(rows["size"].sum()),
        "outcomes": {name: int(count) for name, count in rows["outcome"].value_counts().items()},
        "tokens": [rows["token"].min(), rows["token"].max()],
        "entryTimes": int(rows["entry_time"].map(lambda time: int(time.timestamp())).sum()),
        "payloads": int(rows["payload"].notna().sum()),
        "bodies": bodies.hexdigest(),
    }


def pyiceberg(metadata, first, last):
    table = StaticTable.from_metadata(metadata)
    within = table.scan(row_filter=f"time >= '{first}' and time < '{last}'", selected_fields=tuple(COLUMNS))
    return {
        "all": figures(table.scan(selected_fields=tuple(COLUMNS)).to_pandas()),
        "range": figures(within.to_pandas()),
        "firstVersion": len(table.scan(snapshot_id=1).to_arrow()),
        "files": len(list(table.scan().plan_files())),
        "filesOfRange": len(list(within.plan_files())),
        "properties": {name: table.metadata.properties[name] for name in ("tidemark.operations", "tidemark.end")},
        "columns": [field.name for field in table.schema().fields],
    }


def duckdb_scans(table, metadata, first, last):
    connection = connect()
    connection.execute("SET TimeZone = 'UTC'")
    columns = ", ".join(COLUMNS)
    rows = f"SELECT {columns} FROM iceberg_scan('{metadata}')"
    grouped = connection.execute(f"SELECT outcome, count(*) FROM iceberg_scan('{metadata}') GROUP BY outcome").fetchall()
    return {
        "all": figures(connection.execute(rows).df()),
        "range": figures(connection.execute(f"{rows} WHERE time >= '{first}' AND time < '{last}'").df()),
        "grouped": dict(grouped),
        "byPath": connection.execute(f"SELECT count(*) FROM iceberg_scan('{table}')").fetchone()[0],
    }


def pandas_files(metadata, first, last):
    files = [task.file.file_path for task in StaticTable.from_metadata(metadata).scan().plan_files()]
    rows = pandas.concat(pandas.read_parquet(file, columns=COLUMNS) for file in files)
    within = rows[(rows["time"] >= pandas.Timestamp(first)) & (rows["time"] < pandas.Timestamp(last))]
    return {"all": figures(rows), "range": figures(within)}


def main():
    table, metadata, *times = sys.argv[1:]
    # As pyiceberg reads times.
    first, last = (time.replace("Z", "+00:00") for time in times)
    found = {
        "pyiceberg": pyiceberg(metadata, first, last),
        "duckdb": duckdb_scans(table, metadata, first, last),
        "pandas": pandas_files(metadata, first, last),
    }
    print(json.dumps(found))


main()
