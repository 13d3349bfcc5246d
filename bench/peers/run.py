#!/usr/bin/env python3
"""Times dense ViTs in PyTorch, ONNX Runtime, OpenVINO, candle and aptvit, and aptvit's pruned ones, in turns.

Installs and builds what it needs first: see README.md.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = HERE / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
OLDEST, NEWEST = (3, 11), (3, 14)
MODELS = ["vit-s16", "vit-b16"]
# Each program and precision; `static` is integers by scales of a calibration.
PROGRAMS = [
    "pytorch f32", "pytorch bf16", "onnxruntime f32", "onnxruntime int8", "onnxruntime static", "openvino f32",
    "openvino bf16", "openvino static", "candle f32", "aptvit f32", "aptvit bf16", "aptvit int8",
]
BASE = "pytorch f32"
# Of a CPU's instruction sets, those that matter here.
SETS = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"]
# Share of the CPUs that others may take before the figures are doubtful.
QUIET = 0.05


def main():
    args = arguments()
    skipped = set(args.skip)
    programs = [name for name in PROGRAMS if not skipped & {name, *name.split()}]
    if not programs:
        sys.exit("Every program is skipped; leave out a --skip.")
    families = {name.split()[0] for name in programs}
    if not args.python and families & {"pytorch", "onnxruntime", "openvino"}:
        install()
        if Path(sys.prefix).resolve() != VENV.resolve():
            sys.exit(subprocess.call([PYTHON, __file__, *sys.argv[1:]]))
    binaries = build(families, args)
    with tempfile.TemporaryDirectory() as folder:
        folder = args.onnx or folder
        os.makedirs(folder, exist_ok=True)
        cells = [(model, batch) for model in args.models for batch in args.batches]
        if families & {"onnxruntime", "openvino"}:
            kinds = {"int8": "dynamic", "static": "static"}
            kinds = {kinds.get(name.split()[1]) for name in programs if not name.startswith("aptvit")} - {None}
            integers = [word for kind in sorted(kinds) for word in ("--integers", kind)]
            missing = [cell for cell in cells if not os.path.exists(onnx_file(folder, *cell))]
            for model, batch in missing:
                say(f"exporting {model} for batch {batch}")
                python("export", model, batch, args, onnx_file(folder, model, batch), integers)
        rounds = {}
        versions = {}
        others = []
        for number in range(args.rounds):
            # Each program comes first in some round.
            shift = number % len(programs)
            for model, batch in cells:
                others.append(others_share())
                for program in programs[shift:] + programs[:shift]:
                    say(f"round {number + 1} of {args.rounds}: {model}, batch {batch}, {program}")
                    results = measure(program, model, batch, args, binaries, folder)
                    for name, result in results.items():
                        if result["threads"] != args.threads:
                            sys.exit(f"{name} ran {result['threads']} threads, not {args.threads}.")
                        rounds.setdefault((model, batch, name), []).append(result)
                        versions[program.split()[0]] = result["version"]
    rows = summarize(rounds)
    busiest = None if None in others else max(others)
    report(rows, versions, busiest, args)
    if args.json:
        settings = {
            "cpu": cpu(),
            "instruction_sets": instruction_sets(),
            "threads": args.threads,
            "rounds": args.rounds,
            "images": args.images,
            "keep": args.keep,
            "flops": args.flops,
            "others_cpu_share": busiest,
        }
        text = json.dumps({**settings, "versions": versions, "rows": rows}, indent=2)
        args.json.write_text(text + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=at_least_one, default=3, metavar="N", help="default: 3")
    add("--threads", type=at_least_one, default=cpus(), metavar="N", help="default: all CPUs")
    add("--models", type=models, default=MODELS, metavar="NAME,..", help="default: both")
    add("--batches", type=batches, default=[1, 8], metavar="N,..", help="default: 1,8")
    add("--images", type=at_least_one, default=40, metavar="N",
        help="that each program is timed on in a round, about; default: 40")
    add("--keep", default="0.7,0.7,0.7", metavar="RATES",
        help="layer keep rates of aptvit's agents; default: 0.7,0.7,0.7")
    add("--flops", type=float, metavar="SHARE",
        help="aptvit's pruned models merge by ToMe to this share of the FLOPs, instead of --keep")
    add("--skip", action="append", default=[], metavar="NAME", type=skippable,
        help=f"leave out a program, a precision or one of: {', '.join(PROGRAMS)}")
    add("--python", type=Path, metavar="PATH",
        help="an interpreter that has the requirements already; default: makes a virtual environment")
    add("--onnx", type=Path, metavar="DIR", help="keep the exported models there, and use those that are there")
    add("--aptvit", type=Path, metavar="PATH", help="a built aptvit; default: builds it")
    add("--json", type=Path, metavar="FILE", help="write the result there too")
    return parser.parse_args()


def at_least_one(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def skippable(text):
    if text not in PROGRAMS and text not in {word for name in PROGRAMS for word in name.split()}:
        raise argparse.ArgumentTypeError(f"{text}: expected one of {', '.join(PROGRAMS)}, or a word of these")
    return text


def models(text):
    names = text.split(",")
    for name in names:
        if name not in MODELS:
            raise argparse.ArgumentTypeError(f"{name}: expected {' or '.join(MODELS)}")
    return names


def batches(text):
    return [at_least_one(word) for word in text.split(",")]


def cpus():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def instruction_sets():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                flags = line.split()
                return [name for name in SETS if name in flags]
    except OSError:
        pass
    return []


def others_share():
    """Share of all CPUs that other programs take while none of ours runs; None if unknown."""
    def times():
        line = Path("/proc/stat").read_text().splitlines()[0]
        # Without guests' time, which user time counts already.
        numbers = [int(word) for word in line.split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]

    try:
        before = times()
        time.sleep(1)
        after = times()
    except OSError:
        return None
    total, idle = (new - old for old, new in zip(before, after))
    return 1 - idle / total


def install():
    """Makes the environment and installs the requirements, where that is still to do."""
    wanted = (HERE / "requirements.txt").read_text()
    stamp = VENV / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(
            f"This is Python {platform.python_version()}, for which PyTorch or NumPy have no build."
            f" Run this with Python {version(OLDEST)} to {version(NEWEST)}."
        )
    say("installing PyTorch, ONNX Runtime and OpenVINO")
    if not PYTHON.exists():
        make = [sys.executable, "-m", "venv", "--clear", VENV]
        if subprocess.call(make) != 0:
            shutil.rmtree(VENV, ignore_errors=True)
            sys.exit("Python cannot make virtual environments here; install its venv module"
                     " (python3-venv on Debian and Ubuntu).")
    command = [PYTHON, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"]
    if subprocess.call(command) != 0:
        sys.exit("pip failed, see above. Check the network and the disk (8 GB), and run this again.")
    stamp.write_text(wanted)


def version(numbers):
    return ".".join(map(str, numbers))


def build(programs, args):
    binaries = {}
    if "candle" in programs:
        say("building the candle program")
        binaries["candle"] = cargo(HERE / "candle")
    if "aptvit" in programs and args.aptvit:
        if not args.aptvit.is_file():
            sys.exit(f"--aptvit {args.aptvit}: no such file.")
        binaries["aptvit"] = args.aptvit.resolve()
    elif "aptvit" in programs:
        say("building aptvit")
        binaries["aptvit"] = cargo(ROOT, "-p", "apt-cli")
    return binaries


def cargo(folder, *words):
    """The program that cargo builds in this folder."""
    if not shutil.which("cargo"):
        sys.exit("cargo is not there: install Rust, or leave out what needs it: --skip candle, and"
                 " --skip aptvit or --aptvit PATH.")
    command = ["cargo", "build", "--release", "--locked", *words]
    command += ["--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        sys.exit("cargo failed, see above.")
    messages = map(json.loads, built.stdout.splitlines())
    return [message["executable"] for message in messages if message.get("executable")][-1]


def measure(program, model, batch, args, binaries, folder):
    """Runs a program once: its rows' names and their results."""
    family, dtype = program.split()
    if family in ("pytorch", "onnxruntime", "openvino"):
        onnx = None if family == "pytorch" else onnx_file(folder, model, batch)
        return {program: python(family, model, batch, args, onnx, ["--dtype", dtype])}
    command = [binaries[family], *workload(model, batch, args)]
    if family == "candle":
        [result] = run(program, command, RAYON_NUM_THREADS=str(args.threads))
        return {program: {**result, "version": candle_version()}}
    command[1:1] = ["bench", "--dtype", dtype]
    command += ["--policy", "tome", "--flops", str(args.flops)] if args.flops else ["--keep", args.keep]
    command += ["--threads", str(args.threads), "--json"]
    modes = {"dense": f"{program} dense", "drop": f"{program} pruned"}
    results = run(program, command)
    return {
        modes[result["mode"]]: {**result, "version": result["backend"]}
        for result in results
        if result["mode"] in modes
    }


def python(program, model, batch, args, onnx=None, words=()):
    command = [args.python or PYTHON, HERE / "python_peers.py", program, *workload(model, batch, args), *words]
    command += ["--threads", str(args.threads)]
    if onnx:
        command += ["--onnx", onnx]
    [result] = run(program, command, OMP_NUM_THREADS=str(args.threads))
    return result


def workload(model, batch, args):
    repeats = max(3, args.images // batch)
    warmup = max(2, repeats // 5)
    words = ["--model", model, "--batch", batch, "--repeats", repeats, "--warmup", warmup]
    return [str(word) for word in words]


def run(program, command, **environment):
    """The JSON lines that a command prints."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        sys.exit(f"{program} failed, see above; --skip {program} goes on without it.")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def onnx_file(folder, model, batch):
    return os.path.join(folder, f"{model}-{batch}.onnx")


def candle_version():
    import tomllib

    packages = tomllib.loads((HERE / "candle" / "Cargo.lock").read_text())["package"]
    return next(package["version"] for package in packages if package["name"] == "candle-core")


def summarize(rounds):
    """Medians over the rounds; a ratio is taken within its round first."""
    rows = []
    for (model, batch, name), results in rounds.items():
        base = rounds.get((model, batch, BASE))
        speeds = [result["images_per_s"] for result in results]
        ratios = base and [own / other["images_per_s"] for own, other in zip(speeds, base)]
        realized = [result["realized"] for result in results if name.endswith("pruned")]
        rows.append({
            "model": model,
            "batch": batch,
            "program": name,
            "images_per_s": statistics.median(speeds),
            "ratio_to_pytorch": statistics.median(ratios) if ratios else None,
            "realized": statistics.median(realized) if realized else None,
            "images_per_s_of_rounds": speeds,
        })
    cells = list(dict.fromkeys((row["model"], row["batch"]) for row in rows))
    rows.sort(key=lambda row: (
        cells.index((row["model"], row["batch"])),
        PROGRAMS.index(" ".join(row["program"].split()[:2])), row["program"],
    ))
    return rows


def report(rows, versions, busiest, args):
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    pruned = f"computes {args.flops} of the FLOPs" if args.flops else f"keeps {args.keep}"
    print(f"{cpu()} ({', '.join(instruction_sets())}), {args.threads} threads; {names}; aptvit pruned {pruned}\n")
    lines = [("model", "batch", "program", "images/s", "of PyTorch", "realized")]
    for row in rows:
        ratio = row["ratio_to_pytorch"]
        lines.append((
            row["model"],
            str(row["batch"]),
            row["program"],
            f"{row['images_per_s']:.2f}",
            f"{ratio:.2f}" if ratio else "-",
            f"{row['realized']:.3f}" if row["realized"] else "-",
        ))
    widths = [max(map(len, column)) for column in zip(*lines)]
    for model, batch, program, *figures in lines:
        figures = [figure.rjust(width) for figure, width in zip(figures, widths[3:])]
        print(model.ljust(widths[0]), batch.rjust(widths[1]), program.ljust(widths[2]), *figures, sep="  ")
    if busiest is not None and busiest > QUIET:
        print(f"\nDO NOT QUOTE: other programs took up to {busiest:.0%} of the CPUs. That slows some"
              " programs far more\nthan others, PyTorch most of all if it has several threads."
              " Close them and run this again.")


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
