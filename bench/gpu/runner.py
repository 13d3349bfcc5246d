"""Runs steps, one after the other, and writes down what comes of each."""

import ctypes
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import machine
import summarize
from settings import DEVICES, IN_DRY_RUN, LEAST_SECONDS, ON_GPU, STAGES

HERE = Path(__file__).resolve().parent
LAST_LINES = 25


LIBC = ctypes.CDLL(None)


def end_with_parent():
    """For a process group of its own, which outlives a parent that is killed: the program gets the signal, too."""
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)


class Skip(Exception):
    """A step that cannot run here, and why."""


def last_lines(text, count=LAST_LINES):
    return "\n".join(text.strip().splitlines()[-count:])


def json_lines(text):
    """Those lines that are JSON objects, and the other lines."""
    rows, others = [], []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.strip():
            others.append(line)
    return rows, others


class GpuMemory:
    """The most memory in use on the first GPU while a program runs, beyond what was in use `before`."""

    def __init__(self, before):
        self.before, self.most, self.process = before, before, None
        if before is None:
            return
        self.process = subprocess.Popen(
            [*machine.GPU_MEMORY, "-lms", "100"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            try:
                self.most = max(self.most, float(line))
            except ValueError:
                continue

    def stop(self):
        if self.process is None:
            return {}
        self.process.terminate()
        self.process.wait()
        return {"gpu_memory_before_mib": self.before, "peak_gpu_mib": self.most - self.before}


class Runner:
    """Runs steps, and writes down what comes of each."""

    def __init__(self, args):
        self.args = args
        self.dry = args.dry_run
        self.bundle = Path(args.bundle).resolve()
        self.out = Path(args.out).resolve()
        self.state = Path(args.state).resolve() if args.state else self.out / "state"
        self.steps = self.state / "steps"
        self.work = self.state / "work"
        for folder in (self.out, self.steps, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        self.log_file = open(self.out / "log.txt", "a", buffering=1, errors="replace")
        self.begun = time.monotonic()
        self.deadline = self.begun + args.budget
        self.stage_end = self.deadline
        self.stage = ""
        self.child = None
        self.aptvit = Path(os.environ.get("APTVIT") or self.bundle / "bin/aptvit")
        self.gpus, self.why_no_gpu = machine.gpus()
        self.devices = IN_DRY_RUN if self.dry else ON_GPU
        if args.devices and not self.dry:
            wanted = args.devices.split(",")
            self.devices = [device for device in ON_GPU if device in wanted]
        self.main = self.devices[0] if self.devices else ON_GPU[0]
        self.torch_device = "cpu" if self.dry else "cuda"
        self.peers = Peers(self)

    def log(self, text):
        print(text, file=self.log_file)

    def say(self, text):
        print(text, flush=True)
        self.log(text)

    def left(self):
        return min(self.deadline, self.stage_end) - time.monotonic()

    # What programs find in their environment.

    def caches(self):
        """Below the state's folder: a later call finds what this one compiled."""
        cache = self.state / "cache"
        own = {
            "XDG_CACHE_HOME": cache,
            "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
            "TRITON_CACHE_DIR": cache / "triton",
        }
        return {name: str(folder) for name, folder in own.items()}

    def environment(self, device=None):
        """For our own programs."""
        env = os.environ | self.caches() | {"RUST_BACKTRACE": "0"}
        folders = machine.library_folders()
        if (self.bundle / "lib").is_dir() and not machine.vulkan_loader():
            folders.append(self.bundle / "lib")
        folders = [str(folder) for folder in folders]
        env["LD_LIBRARY_PATH"] = ":".join([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
        libdevice = machine.libdevice_folder()
        if libdevice:
            env["CUDA_PATH"] = str(libdevice)
        named = [name for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES") if os.environ.get(name)]
        driver = machine.vulkan_driver()
        if driver and not named and not self.dry:
            env["VK_DRIVER_FILES"] = str(driver)
            root = driver.parents[3]
            if root not in (Path("/"), Path("/usr"), Path("/usr/local")):
                # A driver that was mounted into a container has its libraries beside it.
                env["LD_LIBRARY_PATH"] += "".join(f":{root / name}" for name in ("lib64", "lib"))
        if self.dry:
            # Threads that wait must not keep others from computing.
            env |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        return env | DEVICES.get(device, {})

    def python_environment(self):
        env = os.environ | self.caches()
        if self.dry:
            env |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        return env

    def need_gpu(self, device):
        """Some are there without one: wgpu on a driver for CPUs."""
        if device in ("tch:cuda", "cuda") and not self.gpus:
            raise Skip(f"no NVIDIA GPU: {self.why_no_gpu}")

    def need(self, path):
        if not path.exists():
            raise Skip(f"{path} is missing")

    # Running.

    def execute(self, command, limit, env, memory=False):
        """What a program printed and how it ended; it is stopped when its time is over."""
        command = [str(part) for part in command]
        self.log(f"\n$ {' '.join(command)}  (at most {limit:.0f} s)")
        outputs = [self.work / "stdout", self.work / "stderr"]
        start = time.monotonic()
        watch = GpuMemory(machine.gpu_memory() if memory else None)
        status, code = "ok", None
        try:
            with open(outputs[0], "wb") as out, open(outputs[1], "wb") as err:
                # A process group of its own, so that its children end with it.
                self.child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=env,
                    cwd=self.work,
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )
                try:
                    code = self.child.wait(timeout=max(1.0, limit))
                except subprocess.TimeoutExpired:
                    status = "timeout"
                    self.stop_child()
        except OSError as error:
            status = "failed"
            outputs[1].write_text(f"cannot run {command[0]}: {error}")
        finally:
            self.child = None
            memory_used = watch.stop()
        stdout, stderr = (output.read_text(errors="replace") for output in outputs)
        self.log(stdout + stderr)
        if status == "ok" and code != 0:
            status = "failed"
        rows, text = json_lines(stdout)
        result = {
            "status": status,
            "seconds": round(time.monotonic() - start, 2),
            "command": " ".join(command),
            "rows": rows,
        }
        if text:
            result["text"] = last_lines("\n".join(text))
        if status != "ok":
            what = f"stopped after {limit:.0f} s" if status == "timeout" else f"exit code {code}"
            result["error"] = last_lines(f"{stderr.rstrip()}\n{what}")
        return result | memory_used

    def stop_child(self):
        child = self.child
        if child is None or child.poll() is not None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, sign)
                child.wait(timeout=4)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def step(self, name, limit, function, **facts):
        """Runs `function(seconds)` unless it is done; what it returns is written down."""
        path = self.steps / f"{self.stage}--{re.sub(r'[^a-z0-9.]+', '-', name.lower())}.json"
        if path.exists() and not self.args.again:
            try:
                if json.loads(path.read_text())["status"] == "ok":
                    return
            except (ValueError, KeyError):
                pass
        record = {"stage": self.stage, "step": name, **facts}
        # A CPU takes its time to compile what a GPU would run.
        allowed = min(limit * 5 if self.dry else limit, self.left())
        if allowed < LEAST_SECONDS:
            if not path.exists():
                self.write(path, record | {"status": "no time", "seconds": 0, "rows": []})
            return
        start = time.monotonic()
        try:
            record |= function(allowed)
        except Skip as skip:
            record |= {"status": "skipped", "why": str(skip), "rows": []}
        except Exception as error:
            # A mistake in one step's script must not cost the others.
            record |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "rows": []}
        record.setdefault("seconds", round(time.monotonic() - start, 2))
        record["at"] = round(time.time(), 3)
        self.write(path, record)
        passed, why = time.monotonic() - self.begun, summarize.reason(record)[:140]
        self.say(f"{passed:6.1f} s  {self.stage:8} {name:58} {record['status']:8} {why}".rstrip())

    def write(self, path, record):
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record))
        partial.replace(path)
        self.combine()

    def records(self):
        """All that is written down, in the order of the stages and of time."""
        found = []
        for path in self.steps.glob("*.json"):
            try:
                found.append(json.loads(path.read_text()))
            except ValueError:
                continue
        stages = list(STAGES)
        return sorted(found, key=lambda record: (stages.index(record["stage"]), record.get("at", float("inf"))))

    def combine(self):
        partial = self.out / ".results.partial"
        partial.write_text("".join(json.dumps(record) + "\n" for record in self.records()))
        partial.replace(self.out / "results.jsonl")

    def bench(self, device, limit, *options, memory=False, **env):
        """`aptvit bench`"""
        self.need_gpu(device)
        self.need(self.aptvit)
        command = [self.aptvit, "bench", *options, "--device", device, "--json"]
        return self.execute(command, limit, self.environment(device) | env, memory)


class Peers:
    """torch_peers.py, which stays there between questions: importing PyTorch takes seconds."""

    def __init__(self, runner):
        self.runner, self.process, self.lines = runner, None, None

    def start(self):
        self.lines = queue.Queue()
        command = [sys.executable, HERE / "torch_peers.py", "serve"]
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(self.runner.work / "peers.stderr", "wb"),
            env=self.runner.python_environment(),
            cwd=self.runner.work,
            text=True,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )

        def read(process, lines):
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, args=(self.process, self.lines), daemon=True).start()

    def ask(self, cells, limit, memory_before=None):
        """The answers; with the GPU's memory beyond `memory_before`."""
        if not machine.package_folder("torch") or not machine.package_folder("timm"):
            raise Skip("torch or timm is not installed for this Python")
        device = self.runner.torch_device
        if device == "cuda":
            self.runner.need_gpu("tch:cuda")
        if self.process is None or self.process.poll() is not None:
            self.start()
        cells = [cell | {"device": device} for cell in cells]
        start = time.monotonic()
        rows, status, error = [], "ok", None
        watch = GpuMemory(memory_before)
        try:
            self.process.stdin.write(json.dumps({"cells": cells}) + "\n")
            self.process.stdin.flush()
            while True:
                line = self.lines.get(timeout=max(0.1, start + limit - time.monotonic()))
                if line is None:
                    raise BrokenPipeError
                row = json.loads(line)
                if row.get("done"):
                    break
                rows.append(row)
        except queue.Empty:
            status, error = "timeout", f"stopped after {limit:.0f} s"
            self.stop()
        except (BrokenPipeError, OSError):
            self.stop()
            text = (self.runner.work / "peers.stderr").read_text(errors="replace")
            status, error = "failed", last_lines(f"{text}\nthe process ended")
        finally:
            memory_used = watch.stop()
        failed = [row["error"] for row in rows if "error" in row]
        if failed and status == "ok":
            status, error = "failed", "; ".join(dict.fromkeys(failed))
        result = {"status": status, "seconds": round(time.monotonic() - start, 2), "rows": rows, **memory_used}
        self.runner.log(json.dumps(result))
        return result | ({"error": error} if error else {})

    def stop(self):
        """Also to leave the GPU's memory to others."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process = None
