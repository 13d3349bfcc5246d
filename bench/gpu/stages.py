"""The stages of a measurement on a GPU; run.sh starts it.

Each step writes its JSON at once, and results.jsonl is made anew after each: whoever stops this loses one step. What is
done is not done again, so that the next call goes on where this one stopped.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import machine
import read_profile
import summarize
from runner import HERE, Runner, Skip, last_lines
from settings import BUDGET, IN_FLIGHT, LEARN_CONFIG, LEARN_DATA, ON_GPU, PRUNED, STAGES, TOME, TUNED

# --- Stage 1: what is there, and is it right?


def run_tests(runner, program, device, names, limit):
    """A Rust test program's own count of the tests whose names begin with one of `names`."""
    runner.need_gpu(device)
    runner.need(program)
    env = runner.environment(device) | {"APT_GOLDEN": str(runner.bundle / "golden")}
    result = runner.execute([program, *names], limit, env)
    text = runner.work.joinpath("stdout").read_text(errors="replace")
    counts = re.findall(r"^test result: .*?(\d+) passed; (\d+) failed; (\d+) ignored", text, re.MULTILINE)
    failed = re.findall(r"^test (\S+) \.\.\. FAILED", text, re.MULTILINE)
    passed = re.findall(r"^test (\S+) \.\.\. ok", text, re.MULTILINE)
    if counts:
        numbers = dict(zip(("passed", "failed", "ignored"), map(int, counts[-1]), strict=True))
    else:
        # It did not come to its count.
        numbers = {"passed": len(passed), "failed": len(failed)}
    row = {"program": program.name, "tests": names, "device": device, **numbers, "failures": failed}
    result["rows"] = [row]
    if result["status"] == "failed":
        # Test programs write what went wrong on stdout.
        result["error"] = last_lines(text) + "\n" + result["error"]
    result.pop("text", None)
    return result


def what(runner):
    def gpu(_):
        if not runner.gpus:
            raise Skip(f"no NVIDIA GPU: {runner.why_no_gpu}")
        return {"status": "ok", "rows": [machine.smi() | {"gpus": runner.gpus}]}

    def libraries(_):
        library, _, _ = machine.cupti()
        compiler = shutil.which("nvcc") or next(
            (str(kit / "bin/nvcc") for kit in machine.toolkits() if (kit / "bin/nvcc").exists()), None
        )
        version = ""
        if compiler:
            run = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30)
            version = " ".join(re.findall(r"release [0-9.]+", run.stdout))
        row = {
            "nvcc": version,
            "libdevice": str(machine.libdevice_folder()),
            "vulkan driver": str(machine.vulkan_driver()),
            "vulkan loader": machine.vulkan_loader()
            or ("the bundle's" if (runner.bundle / "lib").is_dir() else "none"),
            "cupti": str(library),
        }
        return {"status": "ok", "rows": [row]}

    def info(limit):
        runner.need(runner.aptvit)
        return runner.execute([runner.aptvit, "info", "--json"], limit, runner.environment())

    runner.step("gpu", 30, gpu)
    runner.step("machine", 10, lambda _: {"status": "ok", "rows": [machine.computer()]})
    runner.step("libraries", 30, libraries)
    runner.step("aptvit info", 30, info)
    tests = runner.bundle / "bin/tests"
    for device in runner.devices:
        run = partial(run_tests, runner, tests, device, ["golden::", "uniform::"])
        runner.step(f"golden values, decisions {device}", 60, run)
    runner.step("pytorch", 60, partial(runner.peers.ask, [{"kind": "versions"}, {"kind": "ceilings"}]))
    # Of many shapes, for which CubeCL would compile many kernels.
    run = partial(run_tests, runner, tests, runner.main, ["mask_and_drop::"])
    runner.step(f"mask and drop {runner.main}", 45, run)

    model = "vit-tiny32" if runner.dry else "vit-s16"
    runner.step("check of ToMe on PyTorch", 45, partial(runner.peers.ask, [{"kind": "check", "model": model}]))


# --- Stage 2: inference


def effort(device, dry):
    """How long our passes are timed: rounds at least, seconds at least."""
    if dry:
        return ["--warmup", "1", "--repeats", "2"]
    if device == "wgpu":
        return ["--warmup", "2", "--repeats", "5", "--seconds", "0.4"]
    return ["--warmup", "5", "--repeats", "10", "--seconds", "0.6"]


class Cell(NamedTuple):
    """Batches of a model on a device, and who runs them: our pruned ways (each times dense, too) and PyTorch's."""

    model: str
    dtype: str
    batches: list
    device: str
    ours: list = []
    variants: list = []
    turns: int = 1

    def sizes(self):
        return ",".join(map(str, self.batches))

    def title(self):
        return f"{self.model} {self.dtype} b{self.sizes()}"


def inference_plan(runner):
    """The most important first. Longer lists of batches stand in one process, which prints when all are done."""
    every = ["tome", "keep", "pairs"]
    if runner.dry:
        tiny = "vit-tiny32"
        return [
            Cell(tiny, "f32", [4], "tch", every, ["eager", *TOME], turns=2),
            Cell(tiny, "f32", [1], "tch", ["tome"], ["eager"]),
            Cell(tiny, "f32", [4], "wgpu", ["tome"]),
            Cell(tiny, "bf16", [4], "tch", ["tome"], ["eager", "autocast"]),
            Cell(tiny, "f32", [4], IN_FLIGHT, ["tome"]),
            Cell(tiny, "f32", [4], "tch", [], ["compile"]),
        ]
    large, small, main = "vit-b16", "vit-s16", "tch:cuda"
    compiled, peers = ["compile", "tome-compile"], ["eager", "tome-sdpa"]
    return [
        Cell(large, "bf16", [64], main, every, ["eager", *TOME], turns=2),
        Cell(large, "bf16", [256], main, every, ["eager", *TOME], turns=2),
        Cell(large, "bf16", [64], main, [], compiled[:1]),
        Cell(large, "bf16", [8, 1], main, every, peers),
        Cell(small, "bf16", [64, 256], main, every, peers),
        Cell(large, "f32", [64], main, every, peers),
        Cell(large, "bf16", [64], "cuda", ["tome"]),
        Cell(large, "bf16", [64], "wgpu", ["tome"]),
        Cell(large, "bf16", [64], main, [], compiled[1:]),
        Cell(large, "bf16", [64], IN_FLIGHT, ["tome"]),
        Cell(small, "bf16", [8, 1], main, every, peers),
        Cell(large, "bf16", [64], main, [], ["autocast"]),
        Cell(large, "f32", [256, 8, 1], main, ["tome"], peers),
        Cell(small, "f32", [64, 256, 8, 1], main, ["tome"], peers),
        Cell(large, "f32", [64], "cuda", ["tome"]),
        Cell(large, "f32", [64], "wgpu", ["tome"]),
        Cell(large, "bf16", [64], "cuda", ["keep", "pairs"]),
        Cell(large, "bf16", [256, 8, 1], "cuda", ["tome"]),
        Cell(small, "bf16", [64], "cuda", ["tome"]),
        Cell(large, "bf16", [64], TUNED, ["tome"]),
        Cell(small, "bf16", [64], "wgpu", ["tome"]),
        Cell(large, "bf16", [64], "wgpu", ["keep", "pairs"]),
        Cell(large, "bf16", [8, 1], "wgpu", ["tome"]),
        Cell(large, "bf16", [256], main, [], compiled),
        Cell(small, "bf16", [64], main, [], compiled),
        Cell(large, "bf16", [1], main, [], ["compile-reduce-overhead"]),
    ]


def ours_in(runner, cell, kind, limit):
    options = ["--model", cell.model, "--dtype", cell.dtype, "--batch", cell.sizes(), *PRUNED[kind]]
    options += effort(cell.device, runner.dry)
    if cell.device == IN_FLIGHT:
        return runner.bench(runner.main, limit, *options, "--in-flight", "8")
    if cell.device == TUNED:
        return runner.bench("cuda", limit, *options, CUBECL_AUTOTUNE_LEVEL="balanced", CUBECL_ENVIRONMENT="tuned")
    return runner.bench(cell.device, limit, *options)


def peers_in(runner, cell, variants, limit):
    seconds = 0.2 if runner.dry else 0.4
    facts = {"kind": "infer", "model": cell.model, "dtype": cell.dtype, "seconds": seconds}
    cells = [facts | {"batch": batch, "variant": name} for batch in cell.batches for name in variants]
    return runner.peers.ask(cells, limit)


def infer(runner):
    cubes = {"cuda": "cuda", TUNED: "cuda", "wgpu": "wgpu"}
    for cell in inference_plan(runner):
        if cell.device in cubes and cubes[cell.device] not in runner.devices:
            continue
        limit = 90 if cell.device == TUNED else 60 if cell.device in ("cuda", "wgpu") else 45

        def ours(kind, turn, cell=cell, limit=limit):
            run = partial(ours_in, runner, cell, kind)
            runner.step(f"{cell.title()} {cell.device} {kind} #{turn}", limit, run, turn=turn, device=cell.device)

        def pytorch(variants, turn, cell=cell):
            limit = 90 if "compile" in variants[0] else 40
            run = partial(peers_in, runner, cell, variants)
            name = f"{cell.title()} pytorch {','.join(variants)} #{turn}"
            runner.step(name, limit, run, turn=turn, device=runner.torch_device)

        # A turn is ours, then PyTorch's. What only ours has comes once, after the turns.
        for turn in range(1, cell.turns + 1):
            for kind in cell.ours[:1]:
                ours(kind, turn)
            compiling = [name for name in cell.variants if "compile" in name]
            if cell.variants and not compiling:
                pytorch(cell.variants, turn)
            # Each may take its time.
            for name in compiling:
                pytorch([name], turn)
        for kind in cell.ours[1:]:
            ours(kind, 1)
    runner.peers.stop()


# --- Stage 3: the training step


def train(runner):
    model, dtype = ("vit-tiny32", "f32") if runner.dry else ("vit-b16", "bf16")
    batches = [4] if runner.dry else [64, 24, 256]
    repeats = (
        ["--warmup", "1", "--repeats", "2"] if runner.dry else ["--warmup", "3", "--repeats", "5", "--seconds", "1"]
    )
    device = runner.main
    cells = [(model, dtype, batch) for batch in batches]
    if not runner.dry:
        cells.append((model, "f32", 64))
    # Memory is read off the whole GPU: PyTorch's process must not be there.
    runner.peers.stop()
    before = machine.gpu_memory()

    def ours(options, cell, limit):
        model, dtype, batch = cell
        sizes = ["--model", model, "--dtype", dtype, "--batch", str(batch)]
        return runner.bench(device, limit, "train", *sizes, "--whole", *repeats, *options, memory=True)

    def pytorch(cell, limit):
        model, dtype, batch = cell
        question = {
            "kind": "train",
            "model": model,
            "dtype": dtype,
            "batch": batch,
            "seconds": 0.2 if runner.dry else 0.5,
        }
        return runner.peers.ask([question], limit, before)

    name = "{} {} b{}".format
    for cell in cells:
        runner.step(f"{name(*cell)} three passes", 45, partial(ours, [], cell), device=device)
        # The published step and the pass before it are timed again beside it, so that the ratio is one of one run.
        runner.step(f"{name(*cell)} pairs", 45, partial(ours, PRUNED["pairs"], cell), device=device)
    for cell in cells:
        runner.step(f"{name(*cell)} pytorch", 45, partial(pytorch, cell), device=runner.torch_device)
    runner.peers.stop()


# --- Stage 4: a real training


def learned(folder):
    """What a run's metrics.jsonl says of its speed and of its course."""
    speeds, course, steps = [], [], 0
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        steps = max(steps, row.get("step", 0))
        if row.get("average"):
            # Everything that was averaged over an epoch: accuracy, loss, tokens.
            course.append({key: value for key, value in row.items() if key != "average"})
        elif "images_per_s" in row:
            speeds.append(row["images_per_s"])
    # The first steps compile and warm up.
    speeds = speeds[min(len(speeds) // 5, 50) :]
    return {
        "steps": steps,
        "train_images_per_s": statistics.median(speeds) if speeds else None,
        "epochs": course[-12:],
    }


def learn(runner):
    device = runner.main
    if runner.dry:
        config, data = runner.bundle / "configs/quickstart.toml", None
    else:
        config, data = runner.bundle / LEARN_CONFIG, runner.bundle / LEARN_DATA
    run_folder = runner.state / "learn"
    with_data = ["--data", data] if data else []

    def need_data():
        runner.need_gpu(device)
        for path in filter(None, (runner.aptvit, config, data)):
            runner.need(path)

    def loader(limit):
        need_data()
        seconds = "1" if runner.dry else "3"
        threads = str(min(16, len(os.sched_getaffinity(0))))
        size = ["--image-size", "32" if runner.dry else "224"]
        options = ["data", *with_data, *size, "--batch", "64", "--threads", threads, "--seconds", seconds]
        return runner.bench(device, limit, *options)

    def training(limit):
        need_data()
        # Loading the images comes before its clock; saving a checkpoint, and measuring after the last step, behind it.
        seconds = limit - (8 if runner.dry else 15)
        if seconds < 4:
            raise Skip(f"only {limit:.0f} s are left")
        if any(run_folder.glob("checkpoints/*")):
            command = [runner.aptvit, "train", "--resume", run_folder]
        else:
            shutil.rmtree(run_folder, ignore_errors=True)
            command = [runner.aptvit, "train", "--config", config, "--out", run_folder]
        if runner.dry:
            seconds = min(seconds, 12)
        command += [*with_data, "--device", device, "--time-limit", f"{seconds:.0f}s", "--plain", "--json"]
        result = runner.execute(command, limit, runner.environment(device), memory=True)
        row = {"what": "training", "config": config.name, "device": device, **learned(run_folder)}
        summary = run_folder / "summary.json"
        if summary.exists():
            row["summary"] = json.loads(summary.read_text())
        result["rows"].append(row)
        return result

    def evaluation(limit):
        need_data()
        if not any(run_folder.glob("checkpoints/*")):
            raise Skip("the training has left no checkpoint")
        command = [
            runner.aptvit,
            "eval",
            "--run",
            run_folder,
            "--checkpoint",
            "last",
            *with_data,
            "--device",
            device,
            "--json",
        ]
        if runner.dry:
            command += ["--limit", "100"]
        result = runner.execute(command, limit, runner.environment(device))
        for row in result["rows"]:
            for each in row.get("evaluations", []):
                each.pop("per_class", None)
        return result

    for_evaluation = 15 if runner.dry else 25
    runner.step("loader", 25, loader, device=device)
    # One that was stopped goes on in the next call; one that ended at its time limit does with --again.
    runner.step("training", max(runner.left() - for_evaluation, 0), training, device=device)
    runner.step("evaluation", 60, evaluation, device=device)


# --- Stage 5: where the time goes


def profiling_library(runner):
    """The library that was brought along if it loads here, else one that is compiled here."""
    library, includes, missing = machine.cupti()
    if library is None:
        raise Skip("CUPTI's library is not found")
    env = runner.environment(runner.main)
    load = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    built = runner.state / "libaptprofile.so"
    reasons = []
    for path in (built, runner.bundle / "libaptprofile.so"):
        if path.exists():
            test = subprocess.run([sys.executable, "-c", load, path], env=env, capture_output=True, text=True)
            if test.returncode == 0:
                return path
            reasons.append(last_lines(test.stderr, 1))
    compiler = shutil.which("gcc") or shutil.which("cc")
    if missing or not compiler:
        what = f"headers are missing: {', '.join(missing)}" if missing else "no C compiler"
        raise Skip(f"no library that loads here ({'; '.join(reasons) or 'none was brought along'}), and {what}")
    command = [compiler, "-O2", "-fPIC", "-shared", *(f"-I{folder}" for folder in includes)]
    command += [HERE / "profile.c", "-o", built, library, "-lpthread"]
    result = runner.execute(command, 60, env)
    if result["status"] != "ok":
        raise Skip(f"the library cannot be compiled: {result['error']}")
    return built


def profile(runner):
    model, dtype, batch, passes = "vit-b16", "bf16", "64", 8
    device = runner.main

    def traced(limit, command, env, modes_of):
        """Runs a program with the library in it, and makes numbers of what it wrote."""
        if not runner.gpus:
            raise Skip(f"no NVIDIA GPU: {runner.why_no_gpu}")
        library = profiling_library(runner)
        trace = runner.work / "trace.tsv"
        trace.unlink(missing_ok=True)
        env = env | {"CUDA_INJECTION64_PATH": str(library), "APT_PROFILE_OUT": str(trace)}
        # The library needs CUPTI, in PyTorch's process, too.
        folders = [str(machine.cupti()[0].parent), env.get("LD_LIBRARY_PATH", "")]
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, folders))
        result = runner.execute(command, limit, env)
        if result["status"] != "ok":
            return result
        if not trace.exists():
            return result | {"status": "failed", "error": "the library wrote nothing: the driver did not load it"}
        modes = modes_of(result["rows"])
        result["timed"] = result["rows"]
        try:
            result["rows"] = read_profile.analyse(trace, modes, passes)
        except ValueError as error:
            return result | {"status": "failed", "error": str(error), "rows": []}
        return result

    def ours(kind, limit):
        runner.need(runner.aptvit)
        options = ["--model", model, "--dtype", dtype, "--batch", batch, *PRUNED[kind]]
        options += ["--warmup", "5", "--repeats", str(passes)]
        command = [runner.aptvit, "bench", *options, "--device", device, "--json"]

        def modes(rows):
            return [row["mode"] if row["mode"] == "dense" else f"{kind} {row['mode']}" for row in rows]

        return traced(limit, command, runner.environment(device), modes)

    def pytorch(variant, limit):
        command = [sys.executable, HERE / "torch_peers.py", "run", "--variant", variant, "--model", model]
        command += ["--batch", batch, "--dtype", dtype, "--passes", str(passes + 5), "--device", "cuda"]
        return traced(limit, command, runner.python_environment(), lambda rows: [f"pytorch {variant}"])

    runner.peers.stop()
    title = f"{model} {dtype} b{batch}"
    runner.step(f"{title} tome", 40, partial(ours, "tome"), device=device)
    runner.step(f"{title} pytorch tome-sdpa", 40, partial(pytorch, "tome-sdpa"), device="cuda")
    runner.step(f"{title} pairs", 40, partial(ours, "pairs"), device=device)
    runner.step(f"{title} keep", 40, partial(ours, "keep"), device=device)
    runner.step(f"{title} pytorch eager", 40, partial(pytorch, "eager"), device="cuda")


# --- All of it

RUN = {"what": what, "infer": infer, "train": train, "learn": learn, "profile": profile}


def names(text):
    found = [name for name in text.split(",") if name]
    wrong = [name for name in found if name not in STAGES]
    if wrong:
        raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: expected some of {', '.join(STAGES)}")
    return found


def arguments():
    parser = argparse.ArgumentParser(prog="run.sh", description="Measures on a GPU; README.md says what and how.")
    parser.add_argument("--out", default="out", help="results.jsonl, log.txt and tables.md go there [default: ./out]")
    parser.add_argument(
        "--state", help="each step's JSON, caches and the training's folder go there [default: OUT/state]"
    )
    parser.add_argument(
        "--bundle", default=HERE, help="folder of bin/, golden/, configs/ and data/ [default: that of run.sh]"
    )
    parser.add_argument("--devices", metavar="DEVICE,..", help=f"some of {', '.join(ON_GPU)} [default: all]")
    parser.add_argument("--only", type=names, default=list(STAGES), metavar="STAGE,..", help=", ".join(STAGES))
    parser.add_argument("--skip", type=names, default=[], metavar="STAGE,..")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help=f"for all of it [default: {BUDGET}; of a dry run, an hour]"
    )
    parser.add_argument("--again", action="store_true", help="run what is done, too")
    parser.add_argument("--done", metavar="RESULTS.jsonl", help="an earlier call's: what it has need not run again")
    parser.add_argument("--dry-run", action="store_true", help="small models on the CPU and on Vulkan's driver for it")
    parser.add_argument("--print-cuda", choices=["include", "cupti"], help=argparse.SUPPRESS)
    return parser.parse_args()


def take_over(runner, path):
    """Steps of an earlier call whose state is lost."""
    for line in Path(path).read_text().splitlines():
        record = json.loads(line)
        name = re.sub(r"[^a-z0-9.]+", "-", record["step"].lower())
        target = runner.steps / f"{record['stage']}--{name}.json"
        if record["status"] == "ok" and not target.exists():
            target.write_text(json.dumps(record))


def main():
    args = arguments()
    if args.print_cuda:
        library, includes, _ = machine.cupti()
        print(" ".join(f"-I{folder}" for folder in includes) if args.print_cuda == "include" else library or "")
        return
    if args.budget is None:
        args.budget = 3600 if args.dry_run else BUDGET
    runner = Runner(args)
    if args.done:
        take_over(runner, args.done)

    def stopped(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stopped)
    stages = [name for name in STAGES if name in args.only and name not in args.skip]
    try:
        for index, name in enumerate(stages):
            later = sum(STAGES[other] or 0 for other in stages[index + 1 :])
            now = time.monotonic()
            limit = STAGES[name] if STAGES[name] is not None else max(0.0, runner.deadline - now - later)
            runner.stage, runner.stage_end = name, min(runner.deadline, now + (limit * 5 if runner.dry else limit))
            RUN[name](runner)
    except KeyboardInterrupt:
        runner.say("stopped; the same command goes on")
    finally:
        runner.stop_child()
        runner.peers.stop()
        runner.combine()
    records = runner.records()
    (runner.out / "tables.md").write_text(summarize.markdown(records))
    print()
    print(summarize.short(records))
    print(f"\n{runner.out / 'results.jsonl'}; tables.md and log.txt beside it")


if __name__ == "__main__":
    main()
