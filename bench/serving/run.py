"""The server under load: python3 bench/serving/run.py --help"""

import argparse
import json
import os
import subprocess
import threading
import time

import chaos
from generators import oha, wrk
from server import Peer, Server


def say(**row):
    print(json.dumps(row), flush=True)


def saturation(args):
    """In turns: the server's images/s and those of `aptvit bench`."""
    for turn in range(args.turns):
        batch = ["--batch", str(args.batch), "--target-latency", "1h"]
        server = Server(args.aptvit, [args.model], ["--flops", "1.0", "--max-wait", "1h", *batch, *args.options])
        try:
            wrk(server.classify_url(), args.picture, 3, args.connections)
            served = wrk(server.classify_url(), args.picture, args.seconds, args.connections)
        finally:
            server.end()
        path = args.model.split("=", 1)[1]
        kind = "--run" if os.path.exists(os.path.join(path, "config.toml")) else "--model"
        command = [args.aptvit, "bench", "inference", kind, path, "--batch", str(args.batch), "--json", *args.options]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows = [json.loads(line) for line in output.splitlines()]
        bench = next(row for row in rows if row["mode"] == "dense")["images_per_s"]
        say(part="saturation", turn=turn, served=served, bench_images_per_s=bench, ratio=served["requests_per_s"] / bench)


class Watcher(threading.Thread):
    """What the server says of its load, ten times a second."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.going, self.loads, self.memory = server, True, [], []

    def run(self):
        while self.going:
            try:
                self.loads.append((time.monotonic(), self.server.load()))
                self.memory.append(self.server.memory())
            except OSError:
                pass
            time.sleep(0.1)

    def end(self):
        self.going = False
        self.join()
        shares = [load["shares"]["normal"] for _, load in self.loads]
        return {
            "least_share": min(shares),
            "mean_share": sum(shares) / len(shares),
            "most_waiting": max(load["waiting"] for _, load in self.loads),
            "most_memory_mib": max(self.memory),
            "fidelity": {key: value for key, value in self.loads[-1][1].items() if key.startswith("fidelity")},
        }


def overload(args):
    """Half of what dense can bear, and three times that, with and without a budget that follows the load."""
    usual = ["--max-requests", "4096", "--max-connections", "8192", "--deadline", "60s", *args.options]
    capacity = args.capacity
    if capacity is None:
        server = Server(args.aptvit, [args.model], ["--flops", "1.0", "--max-wait", "1h", *usual])
        try:
            dense = wrk(server.classify_url(), args.picture, 20, args.connections)
        finally:
            server.end()
        capacity = dense["requests_per_s"]
        say(part="capacity", dense=dense)
    for flops, name in [(args.flops, "elastic"), ("1.0", "dense")]:
        if name not in args.budgets:
            continue
        options = ["--flops", flops, "--fidelity-sample", "50", "--target-latency", args.target, *usual]
        server = Server(args.aptvit, [args.model], options)
        try:
            oha(server.classify_url(), args.picture, 3, capacity / 2)
            half = oha(server.classify_url(), args.picture, min(args.seconds, 30), capacity / 2)
            say(part="half", budget=name, load=half)
            watcher = Watcher(server)
            watcher.start()
            load = oha(server.classify_url(), args.picture, args.seconds, args.times * capacity)
            ended = time.monotonic()
            while server.load()["shares"]["normal"] < 1.0 and time.monotonic() < ended + 60:
                time.sleep(0.05)
            back = time.monotonic() - ended
            time.sleep(5)
            ratio = load["p99_s"] / half["p99_s"]
            say(part="overload", budget=name, times=args.times, target=args.target, load=load, p99_of_half=ratio,
                share_back_after_s=back, **watcher.end())
        finally:
            server.end()


def shares(args):
    """Saturated throughput at several shares: how much load each can bear."""
    for share in ("1.0", "0.7", "0.5", "0.35"):
        server = Server(args.aptvit, [args.model], ["--flops", share, "--max-wait", "1h", *args.options])
        try:
            wrk(server.classify_url(), args.picture, 2, args.connections)
            say(part="shares", share=share, served=wrk(server.classify_url(), args.picture, args.seconds, args.connections))
        finally:
            server.end()


def peer(args):
    """In turns: this server, dense, and FastAPI with ONNX Runtime, full, and at half of what this server can bear."""
    for turn in range(args.turns):
        rates = []
        starts = {"aptvit": lambda: Server(args.aptvit, [args.model], ["--flops", "1.0", "--max-wait", "1h", *args.options])}
        for text in args.peers:
            options = [f"--{part}" if i % 2 == 0 else part for i, part in enumerate(text.replace("=", ",").split(","))]
            starts[f"onnx {text}"] = lambda options=options: Peer(args.python, args.onnx, options)
        for name, start in starts.items():
            server = start()
            try:
                url = server.classify_url()
                wrk(url, args.picture, 3, args.connections)
                full = wrk(url, args.picture, args.seconds, args.connections)
                rates.append(full["requests_per_s"])
                # Some servers go on computing for clients that are gone.
                time.sleep(10)
                half = oha(url, args.picture, args.seconds, rates[0] / 2)
                say(part="peer", turn=turn, server=name, full=full, half=half, memory_mib=server.memory())
            finally:
                server.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["saturation", "shares", "overload", "peer", "chaos"])
    parser.add_argument("--model", required=True, help="NAME=PATH")
    parser.add_argument("--picture", required=True)
    parser.add_argument("--aptvit", default="target/release/aptvit")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--times", type=float, default=3, help="of what dense can bear")
    parser.add_argument("--flops", default="1.0:0.35")
    parser.add_argument("--target", default="1s")
    parser.add_argument("--capacity", type=float, help="images/s that dense can bear [default: measured]")
    parser.add_argument("--budgets", nargs="+", default=["elastic", "dense"], choices=["elastic", "dense"])
    parser.add_argument("--python", default="python3", help="with the peer's packages")
    parser.add_argument("--onnx", help="the same model, for the peer")
    parser.add_argument("--peers", nargs="+", default=["threads=2,passes=1", "threads=1,passes=2", "threads=2,passes=1,batch=8"])
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of aptvit, last of all")
    args = parser.parse_args()
    args.aptvit, args.picture = os.path.abspath(args.aptvit), os.path.abspath(args.picture)
    parts = {"saturation": saturation, "shares": shares, "overload": overload, "peer": peer}
    parts.get(args.part, lambda args: chaos.run(args, say))(args)


if __name__ == "__main__":
    main()
