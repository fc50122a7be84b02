"""A stand-in for the hub of Hugging Face, as far as an upload asks for it."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_stand_in"


@contextmanager
def stand_in() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Its address, and the files that it gets, by repository and path; only with ``TOKEN``."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "Invalid username or password."}, 401)
            if self.path == "/api/repos/create":
                made = json.loads(body)
                name = f"{made.get('organization') or 'me'}/{made['name']}"
                return self.answer({"url": f"{address}/{name}", "id": "1"})
            if self.path == "/api/validate-yaml":  # of the card
                return self.answer({"errors": [], "warnings": []})
            name = self.path.removeprefix("/api/models/").rpartition("/main")[0]
            if name.endswith("/preupload"):
                paths = [{"path": x["path"]} for x in json.loads(body)["files"]]
                return self.answer({"files": [x | REGULAR for x in paths]})
            if name.endswith("/commit"):
                repository = name.removesuffix("/commit")
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        files[f"{repository}/{line['value']['path']}"] = content
                return self.answer(COMMIT | {"commitUrl": f"{address}/{repository}/commit/1"})
            return self.answer({"error": "not found"}, 404)

        def do_GET(self):
            self.answer({"sha": "1", "id": "a/b", "siblings": []})

        def answer(self, value, status=200):
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address, files
    finally:
        server.shutdown()
        server.server_close()


COMMIT = {"commitOid": "1"}
REGULAR = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
