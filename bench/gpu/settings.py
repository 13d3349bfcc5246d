"""What a reader may want to change."""

# Seconds of each stage at most, in the order in which they run. The one that says None has what is left of the budget,
# less what later ones need.
STAGES = {"what": 90, "infer": 220, "train": 65, "profile": 50, "learn": None}
BUDGET = 540
# A step that gets less than this is not begun.
LEAST_SECONDS = 5
# A real training.
LEARN_CONFIG = "configs/cifar10-gpu.toml"
LEARN_DATA = "data/cifar10.tgz"
# As --device takes them, and what test programs, which have no --device, take instead.
DEVICES = {
    "tch:cuda": {"BURN_DEVICE": "tch", "APT_TEST_DEVICE": "tch:cuda"},
    "cuda": {"BURN_DEVICE": "cuda", "CUBECL_AUTOTUNE_LEVEL": "minimal"},
    "wgpu": {"BURN_DEVICE": "wgpu", "CUBECL_AUTOTUNE_LEVEL": "minimal"},
    "tch": {"BURN_DEVICE": "tch"},
}
ON_GPU = ["tch:cuda", "cuda", "wgpu"]
IN_DRY_RUN = ["tch", "wgpu"]
# How the pruned passes of `aptvit bench` are asked for.
PRUNED = {
    "tome": ["--policy", "tome", "--flops", "0.5"],
    "pairs": ["--policy", "pairs", "--flops", "0.5"],
    "keep": ["--keep", "0.7", "--ragged"],
}
TOME = ["tome", "tome-sdpa"]
# Two ways of ours that stand where a device does. IN_FLIGHT: many passes wait for one result, as PyTorch's queued
# passes do. TUNED: kernels are tried out at length, and remembered apart from those of the other steps.
IN_FLIGHT, TUNED = "in flight", "cuda tuned"
