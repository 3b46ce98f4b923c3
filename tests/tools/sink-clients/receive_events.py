"""A webhook that reads what it gets with the package cloudevents: usage receive_events.py SNIPPET SECRET COUNT.

SNIPPET is the file with the function `verify` of docs/sinks.md. Prints its port, and then each event, in the order in which they come. The first
request is refused although it is fine, so that it comes again. Ends with the request that brings the COUNT-th event.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

SNIPPET, SECRET, COUNT = sys.argv[1], sys.argv[2].encode(), int(sys.argv[3])
names = {}
exec(open(SNIPPET).read(), names)
verify = names["verify"]
seen = {}
refused = []


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        signature = self.headers["tidemark-signature"]
        assert self.headers["content-type"] == "application/cloudevents-batch+json"
        assert verify(SECRET, signature, body), "the signature is another one"
        assert not verify(SECRET, signature, body + b" "), "a signature of another body counts"
        assert not verify(SECRET + b"x", signature, body), "a signature with another secret counts"
        if not refused:
            refused.append(body)
            self.answer(503)
            return
        # The package reads events, not batches of them.
        for item in json.loads(body):
            event = JSONFormat().read(CloudEvent, json.dumps(item))
            key = (event.get_source(), event.get_id())
            assert seen.setdefault(key, event.get_data()) == event.get_data(), f"{key} is two events"
            print(
                json.dumps(
                    {
                        "id": event.get_id(),
                        "source": event.get_source(),
                        "type": event.get_type(),
                        "subject": event.get_subject(),
                        "time": event.get_time().isoformat(),
                        "datacontenttype": event.get_datacontenttype(),
                        "sequence": event.get_extension("sequence"),
                        "data": event.get_data(),
                    }
                ),
                flush=True,
            )
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Webhook)
print(server.server_port, flush=True)
while len(seen) < COUNT:
    server.handle_request()
