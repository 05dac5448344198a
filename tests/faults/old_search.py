"""An Elasticsearch of a version that is none of ours, as far as it is asked who it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread


class _Elasticsearch6(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"version": {"number": "6.8.0"}}')

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def elasticsearch_6() -> Iterator[str]:
    """Its URL."""
    with HTTPServer(("127.0.0.1", 0), _Elasticsearch6) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
