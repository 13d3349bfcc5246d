"""Makes numbers of the lines that libaptprofile.so wrote (see profile.c): one JSON object for each mode.

A pass ends where the logits come to the host: with a copy of as many bytes as the last one of the program. Modes take
turns, so the passes of two modes alternate. Only the last passes count; those before warm the machine up.
"""

import argparse
import bisect
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

TOP_KERNELS = 25
NAME_LENGTH = 110
# Of the records of waits: a stream that waits for an event keeps no host waiting.
WAIT_KINDS = {1: "event", 3: "stream", 4: "context"}


class Trace:
    def __init__(self, path):
        self.kernels, self.copies, self.sets, self.calls, self.waits = [], [], [], [], []
        self.dropped = self.errors = None
        for line in Path(path).read_text(errors="replace").splitlines():
            fields = line.split("\t")
            try:
                self.add(fields)
            except (IndexError, ValueError):
                # The program was stopped in the middle of a line.
                continue
        for records in (self.kernels, self.copies, self.sets, self.calls, self.waits):
            records.sort(key=lambda record: record[0])

    def add(self, fields):
        kind = fields[0]
        if kind == "E":
            self.dropped, self.errors = int(fields[1]), int(fields[2])
            return
        start, end = int(fields[1]), int(fields[2])
        if kind == "K":
            self.kernels.append((start, end, fields[5]))
        elif kind == "M":
            self.copies.append((start, end, int(fields[4]), fields[5], int(fields[6])))
        elif kind == "Z":
            self.sets.append((start, end))
        elif kind == "A":
            name = re.sub(r"_v\d+$|_ptsz$", "", fields[5])
            self.calls.append((start, end, int(fields[3]), int(fields[4]), name))
        elif kind == "S":
            self.waits.append((start, end, int(fields[3])))

    def pass_ends(self):
        to_host = [copy for copy in self.copies if copy[3] == "DtoH"]
        if not to_host:
            return []
        last = to_host[-1][4]
        return [copy[1] for copy in to_host if copy[4] == last]

    def within(self, records, start, end):
        """Those that begin in that time."""
        first = bisect.bisect_left(records, start, key=lambda record: record[0])
        behind = bisect.bisect_left(records, end, key=lambda record: record[0])
        return records[first:behind]


def union(spans):
    """How long at least one of the spans lasted; overlaps count once."""
    total, reached = 0, None
    for start, end in sorted(spans):
        if reached is None or start > reached:
            total += end - start
            reached = end
        elif end > reached:
            total += end - reached
            reached = end
    return total


def outermost(calls):
    """A call of the runtime may show the driver's call inside it; the outer one alone counts."""
    ends = {}
    found = []
    for call in sorted(calls, key=lambda call: (call[0], -call[1])):
        start, end, thread = call[:3]
        if end > ends.get(thread, -1):
            found.append(call)
            ends[thread] = end
    return found


def of_window(trace, start, end):
    """What happened between two points in time."""
    kernels = trace.within(trace.kernels, start, end)
    copies = trace.within(trace.copies, start, end)
    sets = trace.within(trace.sets, start, end)
    calls = trace.within(trace.calls, start, end)
    to_host = {copy[2] for copy in copies if copy[3] == "DtoH"}
    # A copy to memory that is not pinned keeps the host until it is done.
    waiting = outermost(
        call for call in calls if "Synchronize" in call[4] or ("Memcpy" in call[4] and call[3] in to_host)
    )
    busy = union([span[:2] for span in (*kernels, *copies, *sets)])
    by_call = defaultdict(lambda: [0, 0])
    for call in calls:
        entry = by_call[call[4]]
        entry[0] += 1
        entry[1] += call[1] - call[0]
    by_kernel = defaultdict(lambda: [0, 0])
    for kernel in kernels:
        entry = by_kernel[kernel[2]]
        entry[0] += 1
        entry[1] += kernel[1] - kernel[0]
    return {
        "wall_ms": (end - start) / 1e6,
        "gpu_busy_ms": busy / 1e6,
        "wait_ms": union([call[:2] for call in waiting]) / 1e6,
        "waits": len(waiting),
        "kernels": len(kernels),
        "copies_to_host": len(to_host),
        "copies_to_gpu": sum(copy[3] == "HtoD" for copy in copies),
        "recorded_waits": sum(wait[2] in WAIT_KINDS for wait in trace.within(trace.waits, start, end)),
        "by_call": by_call,
        "by_kernel": by_kernel,
    }


def readable(names):
    """C++ names as people write them, where the tool for it is there."""
    mangled = [name for name in names if name.startswith("_Z")]
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    found = {name: name for name in names}
    if mangled and tool:
        run = subprocess.run([tool], input="\n".join(mangled), capture_output=True, text=True)
        lines = run.stdout.splitlines()
        if run.returncode == 0 and len(lines) == len(mangled):
            found.update(zip(mangled, lines, strict=True))
    short = {}
    for name, text in found.items():
        text = re.sub(r"^void ", "", text)
        text = text.replace("(anonymous namespace)::", "").replace("at::native::", "")
        short[name] = text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"
    return short


def summary(mode, windows):
    """The median pass of a mode; calls and kernels are means."""
    count = len(windows)
    result = {"mode": mode, "passes": count}
    for key, value in windows[0].items():
        if not isinstance(value, dict):
            result[key] = round(statistics.median(window[key] for window in windows), 4)
    wall = result["wall_ms"] or float("nan")
    result["gpu_idle_share"] = round(1 - result["gpu_busy_ms"] / wall, 4)
    result["host_wait_share"] = round(result["wait_ms"] / wall, 4)

    def merged(key):
        sums = defaultdict(lambda: [0, 0])
        for window in windows:
            for name, (number, nanoseconds) in window[key].items():
                sums[name][0] += number
                sums[name][1] += nanoseconds
        return sorted(sums.items(), key=lambda item: -item[1][1])

    def entry(name, number, nanoseconds):
        return {"name": name, "count": round(number / count, 2), "ms": round(nanoseconds / count / 1e6, 4)}

    result["calls"] = [entry(name, *sums) for name, sums in merged("by_call")[:TOP_KERNELS]]
    kernels = merged("by_kernel")
    short = readable([name for name, _ in kernels[:TOP_KERNELS]])
    total = sum(sums[1] for _, sums in kernels) or 1
    result["distinct_kernels"] = len(kernels)
    result["top_kernels"] = [
        entry(short[name], *sums) | {"share": round(sums[1] / total, 4)} for name, sums in kernels[:TOP_KERNELS]
    ]
    return result


def analyse(path, modes, passes):
    trace = Trace(path)
    ends = trace.pass_ends()
    begins = [record[0][0] for record in (trace.kernels, trace.copies, trace.calls) if record]
    if not begins:
        raise ValueError("nothing was recorded: did the program use the GPU, and did the library find CUPTI?")
    lost = {"dropped_records": trace.dropped, "errors": trace.errors, "complete": trace.dropped is not None}
    windows = list(pairwise(ends))
    wanted = passes * len(modes)
    rows = []
    if len(windows) >= wanted:
        windows = windows[len(windows) - wanted :]
        for index, mode in enumerate(modes):
            own = [of_window(trace, *window) for window in windows[index :: len(modes)]]
            rows.append(summary(mode, own) | lost)
    else:
        # Passes cannot be told apart; everything from start to end is better than nothing.
        last = max(record[1] for record in (*trace.kernels, *trace.copies, *trace.calls))
        rows.append(summary("whole program", [of_window(trace, min(begins), last)]) | lost)
        rows[0]["note"] = f"only {len(ends)} passes were seen to end, of {wanted + 1}"
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", help="the file that libaptprofile.so wrote")
    parser.add_argument("--modes", default="pass", help="in the order of their turns, with commas")
    parser.add_argument("--passes", type=int, default=5, help="of each mode, counted from the end")
    args = parser.parse_args()
    try:
        rows = analyse(args.trace, args.modes.split(","), args.passes)
    except (OSError, ValueError) as error:
        sys.exit(f"read_profile: {error}")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
