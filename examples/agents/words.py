"""An agent without a line about the fleet in it, and with nothing but Python's own library: it counts the words of a text.

    fleet-gateway run words -- python3 examples/agents/words.py

    GET /count?text=...    how many words, and how many different ones
    GET /health
"""
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Words(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == '/health':
            return self.answer(200, {'status': 'healthy'})
        texts = parse_qs(url.query).get('text')
        if url.path != '/count' or texts is None:
            return self.answer(404, {'error': 'ask for /count?text=...'})
        words = texts[0].split()
        self.answer(200, {'words': len(words), 'different': len(set(words))})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """The gateway writes a log already."""


if __name__ == '__main__':
    address = (os.environ.get('HOST', '127.0.0.1'), int(os.environ.get('PORT', '8505')))
    ThreadingHTTPServer(address, Words).serve_forever()
