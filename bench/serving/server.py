"""`aptvit serve` as a child, and what it says of itself."""

import atexit
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request


class Server:
    def __init__(self, aptvit, models, options=(), env=None):
        command = [aptvit, "serve", "--json", "--listen", "127.0.0.1:0"]
        for model in models:
            command += ["--model", model]
        started = time.monotonic()
        self.child = subprocess.Popen(
            command + list(options), stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        atexit.register(self.child.kill)
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit("aptvit serve did not start")
        self.ready_after = time.monotonic() - started
        self.url = json.loads(line)["url"]
        self.name = models[0].split("=")[0]

    @property
    def address(self):
        host, port = self.url.split("//")[1].split(":")
        return host, int(port)

    def classify_url(self, options=""):
        return f"{self.url}/v1/models/{self.name}/classify{options}"

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read()

    def load(self):
        return json.loads(self.get("/v1/load"))[0]

    def counted(self, name):
        """The sum of a metric over its labels."""
        lines = self.get("/metrics").decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def memory(self):
        """Resident bytes, in MiB."""
        with open(f"/proc/{self.child.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def end(self, how=signal.SIGTERM):
        self.child.send_signal(how)
        return self.child.wait(timeout=60)


class Peer:
    """bench/peers/serving/onnx_server.py as a child."""

    def __init__(self, python, onnx, options):
        script = os.path.join(os.path.dirname(__file__), "..", "peers", "serving", "onnx_server.py")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.child = subprocess.Popen([python, script, onnx, "--port", str(port), *options])
        atexit.register(self.child.kill)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the peer did not start")

    def classify_url(self):
        return f"{self.url}/classify"

    memory = Server.memory
    end = Server.end
