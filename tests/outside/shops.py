"""The shop as a process of its own, and questions to it over HTTP."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

# What is on the shelf: SKU, name, price in cents, description, pieces.
SHELF = [
    ("mug", "Mug", 1250, "Stoneware, 350 ml", 40),
    ("teapot", "Teapot", 4900, "Cast iron, 1.2 l", 12),
    ("tea-100", "Green tea", 890, "100 g of sencha", 250),
    ("bowl", "Tea bowl", 2200, "Hand-thrown, matt glaze", 4),
    ("whisk", "Bamboo whisk", 1650, "80 prongs, with a holder", 18),
    ("honey", "Lime honey", 720, "Set honey, 250 g", 0),
]
START_S = 120
STOP_S = 30


class Shop:
    """`cleave up` on a data folder of its own. It has the same port each time it is started."""

    def __init__(self, binary, config, folder, cache):
        self.command = [
            str(binary), "up", "--quiet", "--config", str(config),
            "--set", f"data.dir={folder / 'data'}", "--set", f"engine.cache={cache}",
        ]
        self.log = folder / "log"
        self.listen = "127.0.0.1:0"
        self.origin = None
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                [*self.command, "--set", f"http.listen={self.listen}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(lambda: self._ready(begin), START_S, "the shop is ready")
        return self

    def _ready(self, begin):
        said = self.log.read_bytes()[begin:].decode(errors="replace")
        assert self.process.poll() is None, f"the shop ended by itself:\n{said[-4000:]}"
        ready = re.search(r"ready at (http://(\S+))", said)
        if ready is None:
            return False
        self.origin, self.listen = ready.groups()
        return self.ask("GET", "/readyz")[0] == 200

    def stop(self):
        """Ends it as an operator does, and sees that it ends well."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        assert code == 0, f"`cleave up` ended with {code}:\n{self.log.read_text(errors='replace')[-4000:]}"

    def ask(self, method, path, body=None):
        """The status and the value of the answer, None if it has no JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        request = urllib.request.Request(self.origin + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as answer:
            status, text = answer.code, answer.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, None

    def get(self, path):
        status, value = self.ask("GET", path)
        assert status == 200, f"GET {path}: {status} {value}"
        return value

    def put(self, path, body):
        status, value = self.ask("PUT", path, body)
        assert status == 200, f"PUT {path}: {status} {value}"

    def offer(self, sku, name, price_cents, description, available):
        self.put(f"/api/products/{sku}", {"name": name, "price_cents": price_cents, "description": description})
        self.put(f"/api/stock/{sku}", {"available": available})

    def fill_shelf(self):
        for product in SHELF:
            self.offer(*product)
        return self


def eventually(true, seconds, what):
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def environment_number(name, default):
    """A number from the environment."""
    return int(os.environ.get(name) or default)
