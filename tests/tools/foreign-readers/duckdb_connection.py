"""DuckDB with the extensions that stand in Python packages: none is fetched from elsewhere."""

import importlib.util
import pathlib

import duckdb

EXTENSIONS = ["avro", "httpfs", "iceberg"]


def extension_file(name):
    """The file of the extension of this name."""
    folder = pathlib.Path(importlib.util.find_spec(f"duckdb_extension_{name}").submodule_search_locations[0])
    return next(folder.rglob("*.duckdb_extension"))


def connect():
    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    for name in EXTENSIONS:
        connection.execute(f"INSTALL '{extension_file(name)}'")
        connection.execute(f"LOAD {name}")
    return connection
