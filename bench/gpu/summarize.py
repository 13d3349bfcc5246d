"""Makes Markdown tables of results.jsonl: python3 summarize.py results.jsonl"""

import argparse
import json
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

from settings import IN_FLIGHT, TUNED

# Ways of PyTorch that remove tokens.
TOME = ("tome", "tome-sdpa", "tome-compile")
EAGER = "eager"


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def ratio(value):
    return "-" if value is None else f"{value:.2f}"


def share(value):
    return "-" if value is None else f"{value:.3f}"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def rows_of(records, stage, step=""):
    for record in records:
        if record["stage"] == stage and record["step"].startswith(step):
            for row in record.get("rows", []):
                yield record, row


class Cells:
    """Inference: each way of running a model at a batch size, turn by turn."""

    def __init__(self, records):
        # (model, dtype, batch) -> (device, way) -> turn -> row
        self.cells = defaultdict(lambda: defaultdict(dict))
        for record, row in rows_of(records, "infer"):
            if "images_per_s" not in row:
                continue
            place = (row["model"], row["dtype"], row["batch"])
            way = ("pytorch", row["variant"]) if row.get("program") == "pytorch" else (record["device"], self.way(row))
            # Every process times dense anew; the first of a turn ran next to PyTorch's.
            self.cells[place][way].setdefault(record.get("turn", 1), row)

    @staticmethod
    def way(row):
        if row["mode"] == "dense":
            return "dense"
        name = f"{row['policy']} at {row['target_flops']}" if row.get("policy") else "agents, layer keep rates 0.7"
        return f"{name}, ragged" if row["mode"] == "drop-ragged" else name

    def value(self, place, way, key="images_per_s"):
        turns = self.cells[place].get(way)
        values = [row[key] for row in turns.values() if row.get(key) is not None] if turns else []
        return statistics.median(values) if values else None

    def of(self, place, way, other, keys=("images_per_s", "images_per_s")):
        """The ratio turn by turn, and of these the median."""
        own, others = self.cells[place].get(way, {}), self.cells[place].get(other, {})
        found = [
            own[turn][keys[0]] / others[turn][keys[1]]
            for turn in own
            if turn in others and own[turn].get(keys[0]) and others[turn].get(keys[1])
        ]
        return statistics.median(found) if found else None

    def devices(self, place):
        return list(dict.fromkeys(device for device, _ in self.cells[place] if device != "pytorch"))

    def fastest_tome(self, place, compiled=False):
        known = [
            ("pytorch", variant)
            for variant in TOME
            if ("pytorch", variant) in self.cells[place] and (compiled or "compile" not in variant)
        ]
        return max(known, key=lambda way: self.value(place, way) or 0, default=None)

    def places(self):
        order = lambda place: (place[0] != "vit-b16", place[0], place[1] != "bf16", place[1], place[2])
        return sorted(self.cells, key=order)


def machine(records):
    lines = []
    for step in ("gpu", "machine", "libraries", "pytorch"):
        for _, row in rows_of(records, "what", step):
            facts = {key: value for key, value in row.items() if isinstance(value, str | int | float)}
            for key in ("program", "device", "kind", "cell_s", "peak_gpu_mib"):
                facts.pop(key, None)
            facts = {key: number(value) if isinstance(value, float) else value for key, value in facts.items()}
            lines.append(f"- {step}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    return "\n".join(lines)


def correctness(records):
    rows = []
    for record, row in rows_of(records, "what"):
        if "passed" in row:
            failures = ", ".join(row.get("failures", []))
            rows.append(
                [row["program"], row["device"], row["passed"], row["failed"], failures or "-", record["status"]]
            )
        elif row.get("kind") == "check" or "check" in row:
            rows.append(
                [
                    "ToMe on PyTorch",
                    row.get("device", ""),
                    row.get("check"),
                    "",
                    row.get("error", "-"),
                    record["status"],
                ]
            )
    return table(["test program", "device", "passed", "failed", "which", ""], rows) if rows else ""


def dense(cells):
    devices = list(dict.fromkeys(device for place in cells.places() for device in cells.devices(place)))
    devices = [device for device in devices if device not in (IN_FLIGHT, TUNED)]
    others = [
        variant
        for variant in ("autocast", "compile", "compile-reduce-overhead")
        if any(("pytorch", variant) in cells.cells[place] for place in cells.places())
    ]
    rows = []
    for place in cells.places():
        eager = ("pytorch", EAGER)
        row = [place[0], place[1], place[2], number(cells.value(place, eager))]
        for way in [("pytorch", variant) for variant in others] + [(device, "dense") for device in devices]:
            value = cells.value(place, way)
            of_eager = cells.of(place, way, eager)
            row.append("-" if value is None else f"{number(value)} ({ratio(of_eager)})")
        rows.append(row)
    header = ["model", "floats", "batch", "PyTorch eager", *others, *(f"ours, {device}" for device in devices)]
    return table(header, rows) if rows else ""


def pruned(cells):
    rows = []
    for place in cells.places():
        tome = cells.fastest_tome(place)
        for device, way in cells.cells[place]:
            key = (device, way)
            first = next(iter(cells.cells[place][key].values()))
            is_tome = device == "pytorch" and way in TOME
            if device in (IN_FLIGHT, TUNED) or not (is_tome or (device != "pytorch" and way != "dense")):
                continue
            if is_tome:
                faster = cells.of(place, key, ("pytorch", EAGER))
                counted = 1 / first["flops_share"]
                realized = faster / counted if faster else None
            else:
                faster, realized = (cells.value(place, key, name) for name in ("speedup", "realized"))
            tokens = first.get("tokens_per_layer")
            shown = (
                " .. ".join(f"{tokens[index]:.0f}" for index in dict.fromkeys((0, len(tokens) - 1))) if tokens else "-"
            )
            rows.append([
                *place,
                "PyTorch" if is_tome else device,
                way,
                shown,
                share(first.get("flops_share")),
                number(cells.value(place, key)),
                ratio(faster),
                share(realized),
                ratio(cells.of(place, key, tome)) if tome else "-",
            ])  # fmt: skip
    header = ["model", "floats", "batch", "device", "who removes", "tokens", "FLOPs share", "images/s"]
    header += ["times its dense", "realized", "times ToMe on PyTorch"]
    return table(header, rows) if rows else ""


def queued(cells):
    """Many passes, one wait."""
    rows = []
    keys = ("images_per_s", "images_per_s_queued")
    for place in cells.places():
        for device, way in cells.cells[place]:
            if device == IN_FLIGHT:
                of_eager = cells.of(place, (device, way), ("pytorch", EAGER), keys)
                rows.append([*place, "ours", way, number(cells.value(place, (device, way))), ratio(of_eager)])
            elif device == "pytorch":
                value = cells.value(place, (device, way), "images_per_s_queued")
                if value:
                    of_eager = cells.of(place, (device, way), ("pytorch", EAGER), (keys[1], keys[1]))
                    rows.append([*place, "PyTorch", way, number(value), ratio(of_eager)])
    return table(["model", "floats", "batch", "", "", "images/s", "times PyTorch eager"], rows) if rows else ""


def tuned(cells):
    rows = []
    for place in cells.places():
        for device, way in cells.cells[place]:
            if device == TUNED:
                before = cells.value(place, ("cuda", way))
                rows.append([*place, way, number(before), number(cells.value(place, (device, way)))])
    return table(["model", "floats", "batch", "", "cuda", "cuda, kernels tried at length"], rows) if rows else ""


def training(records):
    rows = []
    pytorch = {
        (row["model"], row["dtype"], row["batch"]): row | {"peak_gpu_mib": record.get("peak_gpu_mib")}
        for record, row in rows_of(records, "train")
        if row.get("program") == "pytorch" and "modelled_step_images_per_s" in row
    }
    for record, row in rows_of(records, "train"):
        if row.get("program") == "pytorch" or "part" not in row:
            continue
        # The pairs step's process times the published step, too; it stands in its own line already.
        if record["step"].endswith("pairs") and not row.get("policy"):
            continue
        place = (row["model"], row["dtype"], row["batch"])
        peer = pytorch.get(place)
        name = f"{row['part']}, {row['policy']} at {row.get('target_flops')}" if row.get("policy") else row["part"]
        modelled = peer["modelled_step_images_per_s"] if peer else None
        is_step = "whole" in row["part"]
        rows.append([
            *place, f"ours, {record['device']}", name, number(row["images_per_s"]), ratio(row.get("dense_passes")),
            ratio(row["images_per_s"] / modelled) if modelled and is_step else "-",
            number(record.get("peak_gpu_mib")) if is_step else "-",
        ])  # fmt: skip
    for place, row in pytorch.items():
        memory = number(row.get("peak_gpu_mib"))
        forward = row["forward_images_per_s"]
        for name, key in (
            ("dense forward", "forward_images_per_s"),
            ("forward and backward", "forward_backward_images_per_s"),
            ("original step, modelled: 7 forward, 1 of them backward", "modelled_step_images_per_s"),
        ):
            own = "1.00" if key == "modelled_step_images_per_s" else "-"
            held = memory if key == "forward_backward_images_per_s" else "-"
            rows.append([*place, "PyTorch", name, number(row[key]), ratio(forward / row[key]), own, held])
    rows.sort(key=lambda row: (row[0], row[1], row[2]))
    header = [
        "model",
        "floats",
        "batch",
        "",
        "part",
        "images/s",
        "dense passes",
        "times the modelled step",
        "GPU memory, MiB",
    ]
    return table(header, rows) if rows else ""


def learning(records):
    lines = []
    for record, row in rows_of(records, "learn"):
        if record["step"] == "loader":
            size = "x".join(map(str, row["image_size"]))
            lines.append(f"- loading: {number(row['images_per_s'])} images/s of {size} on {row['threads']} threads")
        elif row.get("what") == "training":
            speed, memory = number(row.get("train_images_per_s")), number(record.get("peak_gpu_mib"))
            lines.append(
                f"- training, {row['config']} on {row['device']}: {row.get('steps')} steps in "
                f"{record['seconds']:.0f} s, {speed} images/s (median), GPU memory {memory} MiB"
            )
            summary = row.get("summary")
            if summary:
                accuracy = {way: share(summary[f"{way}_accuracy"]) for way in ("dense", "pruned")}
                speed = {way: number(summary["images_per_s"][way]) for way in ("dense", "pruned")}
                lines.append(
                    f"- its summary: accuracy dense {accuracy['dense']}, pruned {accuracy['pruned']} at FLOPs share "
                    f"{share(summary['flops_share'])}; images/s dense {speed['dense']}, pruned {speed['pruned']}"
                )
        for each in row.get("evaluations", []):
            lines.append(
                f"- measured afterwards, {each['mode']}: accuracy {share(each['accuracy'])} on {each['images']} "
                f"images, FLOPs share {share(each['flops_share'])}, {number(each['images_per_s'])} images/s"
            )
    return "\n".join(lines)


def profiles(records):
    rows, kernels = [], []
    for _, row in rows_of(records, "profile"):
        if "wall_ms" not in row:
            continue
        # Each of ours has the dense pass beside it; once is enough.
        if row["mode"] == "dense" and any(known[0] == "dense" for known in rows):
            continue
        rows.append([
            row["mode"], f"{row['wall_ms']:.2f}", f"{row['gpu_busy_ms']:.2f}",
            share(row["gpu_idle_share"]), share(row["host_wait_share"]),
            number(row["waits"]), number(row["copies_to_host"]), number(row["copies_to_gpu"]), number(row["kernels"]),
        ])  # fmt: skip
        kernels.append(f"\n{row['mode']}, the longest of {row['distinct_kernels']} different kernels:\n")
        top = [
            [f"`{entry['name']}`", number(entry["count"]), f"{entry['ms']:.3f}", share(entry["share"])]
            for entry in row["top_kernels"][:12]
        ]
        kernels.append(table(["kernel", "a pass", "ms", "share"], top))
    if not rows:
        return ""
    header = [
        "a pass of",
        "ms",
        "GPU busy, ms",
        "GPU idle",
        "host waits",
        "waits",
        "copies to the host",
        "copies to the GPU",
        "kernels",
    ]
    return table(header, rows) + "\n" + "\n".join(kernels)


def reason(record):
    """Why a step did not run, or failed."""
    lines = (record.get("why") or record.get("error") or "").splitlines()
    # The last two lines are the most telling: what was said, and how it ended.
    return " / ".join([line.strip() for line in lines if line.strip()][-2:])[:400]


def missing(records):
    lines = []
    for record in records:
        if record["status"] != "ok":
            why = reason(record)
            lines.append(f"- {record['stage']}, {record['step']}: {record['status']}" + (f": {why}" if why else ""))
    return "\n".join(lines)


def markdown(records):
    cells = Cells(records)
    sections = [
        ("The machine", machine(records)),
        ("Correctness", correctness(records)),
        ("Dense inference, images/s (times PyTorch eager in the same turn)", dense(cells)),
        ("Pruned inference", pruned(cells)),
        ("Many passes, one wait", queued(cells)),
        ("Kernels tried at length", tuned(cells)),
        ("Training steps", training(records)),
        ("A real training", learning(records)),
        ("Where a pass's time goes", profiles(records)),
        ("What did not run", missing(records)),
    ]
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections if text) + "\n"


def short(records):
    """A few lines for the end of the output."""
    lines = []
    by_stage = defaultdict(Counter)
    for record in records:
        by_stage[record["stage"]][record["status"]] += 1
    for stage, counts in by_stage.items():
        lines.append(f"{stage:8} " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    for _, row in rows_of(records, "what"):
        if "passed" in row:
            lines.append(f"{row['program']} on {row['device']}: {row['passed']} passed, {row['failed']} failed")
    cells = Cells(records)
    for place in cells.places():
        eager, tome = cells.value(place, ("pytorch", EAGER)), cells.fastest_tome(place)
        parts = [f"PyTorch {number(eager)}"] if eager else []
        if tome:
            parts.append(f"its ToMe {number(cells.value(place, tome))}")
        for device in cells.devices(place):
            for owner, way in cells.cells[place]:
                if owner == device:
                    key = (owner, way)
                    text = f"{device} {way} {number(cells.value(place, key))}"
                    if way == "dense" and owner not in (IN_FLIGHT, TUNED):
                        text += f" ({ratio(cells.of(place, key, ('pytorch', EAGER)))} of eager)"
                    elif way != "dense":
                        faster, realized = (cells.value(place, key, name) for name in ("speedup", "realized"))
                        text += f" (x{ratio(faster)}, realized {share(realized)})"
                    parts.append(text)
        lines.append(f"{place[0]} {place[1]} b{place[2]}: " + "; ".join(parts))
    learned = learning(records)
    return "\n".join(lines + ([learned] if learned else []))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", help="results.jsonl of run.sh")
    args = parser.parse_args()
    records = [json.loads(line) for line in Path(args.results).read_text().splitlines() if line.strip()]
    sys.stdout.write(markdown(records))


if __name__ == "__main__":
    main()
