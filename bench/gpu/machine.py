"""What this machine has, and where."""

import ctypes.util
import glob
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path


def package_folder(name):
    """Where Python has a package, without importing it."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in found.submodule_search_locations or []] if found else []


def toolkits():
    """Folders of CUDA toolkits, the one that was named first."""
    named = [os.environ.get(name) for name in ("CUDA_PATH", "CUDA_HOME")]
    found = [
        *named,
        "/usr/local/cuda",
        *sorted(glob.glob("/usr/local/cuda-*"), reverse=True),
        "/opt/cuda",
        "/usr/lib/cuda",
    ]
    nvidia = [folder for root in package_folder("nvidia") for folder in sorted(root.glob("*"))]
    return [Path(folder) for folder in [*found, *nvidia] if folder and Path(folder).is_dir()]


def library_folders():
    """Of LibTorch and of what it and the driver's compilers need."""
    torch = [folder / "lib" for folder in package_folder("torch")]
    nvidia = [folder for root in package_folder("nvidia") for folder in sorted(root.glob("*/lib"))]
    cuda = [folder / name for folder in toolkits() for name in ("lib64", "nvvm/lib64", "extras/CUPTI/lib64")]
    found = [folder for folder in [*torch, *nvidia, *cuda] if folder.is_dir()]
    return list(dict.fromkeys(found))


def libdevice_folder():
    for folder in toolkits():
        if (folder / "nvvm/libdevice/libdevice.10.bc").is_file():
            return folder
    return None


def vulkan_driver():
    """The file in which NVIDIA's driver describes itself to Vulkan's loader."""
    places = ["/usr/share", "/etc", "/usr/local/share", "/usr/local/nvidia/share", "/usr/local/etc"]
    for place in places:
        for file in sorted(Path(place).glob("vulkan/icd.d/nvidia_icd*.json")):
            return file
    return None


def vulkan_loader():
    return ctypes.util.find_library("vulkan")


def cupti():
    """CUPTI's library and the folders of its headers."""
    names = sorted({file for folder in library_folders() for file in folder.glob("libcupti.so.[0-9]*")})
    # libcupti.so.13 rather than libcupti.so.2025.3.1: the name that programs ask for.
    names.sort(key=lambda file: (len(file.name), file.name))
    wanted = {"cupti.h": None, "cuda.h": None, "crt/host_defines.h": None}
    for folder in toolkits():
        for inner in ("include", "extras/CUPTI/include", "targets/x86_64-linux/include"):
            for header in wanted:
                if wanted[header] is None and (folder / inner / header).is_file():
                    wanted[header] = folder / inner
    missing = [header for header, folder in wanted.items() if folder is None]
    return (names[0] if names else None), list(dict.fromkeys(filter(None, wanted.values()))), missing


def gpus():
    """What nvidia-smi lists, or why it lists nothing."""
    if not shutil.which("nvidia-smi"):
        return [], "nvidia-smi is missing: no NVIDIA driver is installed"
    try:
        run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi does not answer"
    lines = [line for line in run.stdout.splitlines() if line.startswith("GPU")]
    return lines, "" if lines else (run.stdout + run.stderr).strip()[-300:] or "nvidia-smi lists no GPU"


GPU_MEMORY = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]


def gpu_memory():
    """MiB in use on the first GPU."""
    try:
        return float(subprocess.run(GPU_MEMORY, capture_output=True, text=True, timeout=20).stdout.split()[0])
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
        return None


def smi():
    """The first GPU's properties and state."""
    fields = [
        "name", "driver_version", "vbios_version", "compute_cap", "memory.total", "memory.used", "ecc.mode.current",
        "mig.mode.current", "persistence_mode", "pcie.link.gen.current", "pcie.link.width.current", "clocks.sm",
        "clocks.max.sm", "clocks.max.mem", "power.limit", "power.draw", "temperature.gpu",
    ]  # fmt: skip
    found = {}
    query = subprocess.run(
        ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    values = query.stdout.strip().split(", ")
    if len(values) == len(fields):
        found = dict(zip(fields, values, strict=True))
    table = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30).stdout
    version = re.search(r"CUDA Version: *([0-9.]+)", table)
    if version:
        found["driver's CUDA"] = version[1]
    return found


def computer():
    cpu = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME") if Path("/etc/os-release").exists() else None,
        "python": platform.python_version(),
    }
