"""Reads every document of an index with OpenSearch's own client: usage read_documents.py URL INDEX. Prints one a line: id, version and source."""

import json
import sys

from opensearchpy import OpenSearch
from opensearchpy.helpers import scan

url, index = sys.argv[1:]
client = OpenSearch(hosts=[url])
client.indices.refresh(index=index)
for hit in scan(client, index=index, version=True):
    print(json.dumps({"id": hit["_id"], "version": hit["_version"], "source": hit["_source"]}))
