"""Load from other programs: wrk (as fast as it goes) and oha (at a steady rate)."""

import json
import re
import subprocess
import tempfile


def wrk(url, picture, seconds, connections):
    """Requests a second, and how many were no 200."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            f'local file = io.open("{picture}", "rb")\n'
            'wrk.method = "POST"\nwrk.body = file:read("*a")\n'
            'wrk.headers["Content-Type"] = "application/octet-stream"\n'
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", script.name, url]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: (.*)", text)
    return {"requests_per_s": rate, "not_200": int(bad[1]) if bad else 0, "socket_errors": errors[1] if errors else ""}


def oha(url, picture, seconds, rate, connections=512):
    """Statuses and latencies at a steady rate of requests a second. A request counts from when it was due."""
    command = ["oha", "--no-tui", "--output-format", "json", "-n", str(round(seconds * rate)), "-q", f"{rate:.2f}"]
    command += ["-c", str(connections), "--latency-correction", "-t", "120s", "-m", "POST", "-D", picture]
    command += ["-T", "application/octet-stream", url]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    percentiles = found["latencyPercentiles"]
    return {
        "asked_per_s": round(rate, 2),
        "done_per_s": round(found["summary"]["requestsPerSec"], 2),
        "statuses": found["statusCodeDistribution"],
        "errors": found["errorDistribution"],
        **{f"{p}_s": round(percentiles[p], 4) for p in ("p50", "p95", "p99") if percentiles[p] is not None},
    }
