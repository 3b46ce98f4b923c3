"""Runs statements of DuckDB's SQL from standard input, and prints the rows of each as a line of JSON."""

import json
import sys

from duckdb_connection import connect


def main():
    connection = connect()
    for statement in connection.extract_statements(sys.stdin.read()):
        # The extensions are there, from packages.
        if statement.query.split()[0] not in ("INSTALL", "LOAD"):
            print(json.dumps(connection.execute(statement).fetchall(), default=str))


main()
