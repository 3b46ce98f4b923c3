#!/usr/bin/env python3
"""Appends to a log through `tidemark append --serve`, with nothing but Python's standard library.

usage: append_client.py [--upload] ADDRESS < entries.ndjson

ADDRESS is http://127.0.0.1:7285 or unix:/run/tidemark/append.sock. Each line is a draft; its token is printed once it is committed.
With --upload this program puts the descriptors itself, by signed URLs, so that their bytes pass through the service once less.
"""

import argparse
import http.client
import json
import socket
import sys
import time
import urllib.error
import urllib.request
import uuid

# What a repeated request may mend: no place at the moment, a store that failed, nothing proven yet.
TRANSIENT = (429, 503, 504)


class NotAppended(Exception):
    """The service's answer to an entry that is not committed: RFC 9457 problem details, with the entry's token if it was written."""

    def __init__(self, problem):
        super().__init__(problem.get("detail", problem))
        self.problem = problem


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class AppendClient:
    def __init__(self, address, tries=8, timeout=60.0):
        self.address = address
        self.tries = tries
        self.timeout = timeout

    def append(self, draft):
        """Appends one draft. The answer is a proof that it is committed, in every index and permanently; of a draft with "expect" its
        outcome is "undecided", and an index says later what became of it."""
        return self._repeat("/v1/append", keyed(draft))

    def upload(self, draft):
        """The same, but puts what completes the entry from here."""
        begun = self._repeat("/v1/append?complete=false", keyed(draft))
        for upload in begun["uploads"]:
            put(upload, self.timeout)
        return self._repeat(f"/v1/append/{begun['token']}/confirm")

    def _repeat(self, path, body=None):
        for left in reversed(range(self.tries)):
            try:
                status, headers, answer = self._post(path, body)
            except (OSError, http.client.HTTPException):
                # The answer is lost: the entry may be committed. Under its key the next try counts once with it.
                if not left:
                    raise
                time.sleep(1)
                continue
            if status < 300:
                return answer
            if status not in TRANSIENT or not left:
                raise NotAppended(answer)
            time.sleep(float(headers.get("Retry-After", 1)))

    def _post(self, path, body):
        if self.address.startswith("unix:"):
            connection = UnixConnection(self.address.removeprefix("unix:"), self.timeout)
        else:
            host = self.address.removeprefix("http://").rstrip("/")
            connection = http.client.HTTPConnection(host, timeout=self.timeout)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.headers, json.loads(response.read())
        finally:
            connection.close()


def keyed(draft):
    """The draft as JSON, with a key under which all tries count once. A key of the caller's own also outlives this process."""
    # The service refuses "expect" without "ops": as an attribute it would expect nothing.
    if "ops" not in draft and "expect" not in draft:
        draft = {"ops": [], "attributes": draft}
    return json.dumps({"idempotencyKey": str(uuid.uuid4()), **draft}).encode()


def put(upload, timeout):
    request = urllib.request.Request(upload["url"], upload["body"].encode(), upload["headers"], method="PUT")
    try:
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError as refused:
        # It may be there since an earlier try: the confirmation says whose it is.
        if refused.code not in (403, 409, 412):
            raise


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--upload", action="store_true", help="put the descriptors from here, by signed URLs")
    arguments.add_argument("address")
    given = arguments.parse_args()
    client = AppendClient(given.address)
    append = client.upload if given.upload else client.append
    for line in sys.stdin:
        try:
            print(append(json.loads(line))["token"], flush=True)
        except NotAppended as failed:
            sys.exit(f"error: {failed} ({json.dumps(failed.problem)})")


if __name__ == "__main__":
    main()
