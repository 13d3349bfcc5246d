"""What PyTorch makes of the same work: timm's ViT, ToMe on it, and the cost of a training step.

One process answers many questions, because importing PyTorch takes seconds. `serve` reads one JSON object a line from
stdin, `run` takes one question from the command line, `check` tests the ToMe written here. Answers are JSON lines.

All weights are random and the model has ten classes, as in `aptvit bench`: the speed does not depend on either.

ToMe is written after Bolya et al., "Token Merging: Your ViT But Faster" (2023), section 3: bipartite soft matching, and
attention that counts a token for as many patches as it stands for (proportional attention); the same number of pairs
merges in every block (section 4.1).
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import time
import warnings
from functools import partial

import torch
import torch.nn.functional as F

# Image size, patch size, width, blocks, heads, width of the MLP over that of a token.
MODELS = {
    "vit-b16": (224, 16, 768, 12, 12, 4),
    "vit-s16": (224, 16, 384, 12, 6, 4),
    "vit-ti16": (224, 16, 192, 12, 3, 4),
    "vit-tiny32": (32, 4, 64, 6, 4, 2),
}
CLASSES = 10
# How each of them runs.
VARIANTS = {
    "eager": "timm's model, scaled-dot-product attention; bf16: weights and activations",
    "autocast": "the same with weights in f32 and torch.autocast",
    "compile": "torch.compile of eager, default mode",
    "compile-reduce-overhead": "torch.compile of eager with CUDA graphs",
    "tome": "ToMe, attention of single operations, as in the paper",
    "tome-sdpa": "ToMe, scaled-dot-product attention with the sizes as its mask",
    "tome-compile": "torch.compile of tome-sdpa",
}
SHARE = 0.5


# --- The models


def dense_model(name, device):
    from timm.models.vision_transformer import VisionTransformer

    size, patch, width, blocks, heads, ratio = MODELS[name]
    torch.manual_seed(0)
    # Made where it is used: random numbers on the CPU would take longer than all that is measured.
    with torch.device(device):
        model = VisionTransformer(
            img_size=size,
            patch_size=patch,
            embed_dim=width,
            depth=blocks,
            num_heads=heads,
            mlp_ratio=ratio,
            num_classes=CLASSES,
        )
    return model.to(device).eval()


def merge(tokens, sizes, keys, count, prefix=1):
    """`count` tokens of each image go into the tokens most similar to them; those become means, weighed by sizes.

    tokens [batch, n, width]; sizes [batch, n, 1]: for how many patches each stands; keys [batch, n, k]: what tells how
    similar two are. What stands before the patches, `prefix` tokens, never goes.
    """
    keys = F.normalize(keys, dim=-1)
    seekers, found = keys[:, 0::2], keys[:, 1::2]
    similarity = seekers @ found.transpose(1, 2)
    similarity[:, : (prefix + 1) // 2] = -torch.inf
    best, into = similarity.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    going = order[:, :count]
    # In the order of their places, so that CLS stays first.
    staying = order[:, count:].sort(dim=-1).values
    into = into.gather(1, going)

    def merged(values):
        seeking, receiving = values[:, 0::2], values[:, 1::2]
        width = values.shape[-1]
        rows = going.unsqueeze(-1).expand(-1, -1, width)
        targets = into.unsqueeze(-1).expand(-1, -1, width)
        received = receiving.scatter_add(1, targets, seeking.gather(1, rows))
        stayed = seeking.gather(1, staying.unsqueeze(-1).expand(-1, -1, width))
        return torch.cat([stayed, received], dim=1)

    sums, sizes = merged(tokens * sizes), merged(sizes)
    return sums / sizes, sizes


def sizes_as_mask(sizes, dtype):
    """log(sizes) as a mask over the keys, [batch, 1, 1, n].

    Fast attention kernels want rows that begin at multiples of eight values, so there is room behind each row.
    """
    batch, tokens, _ = sizes.shape
    room = -tokens % 8
    mask = F.pad(sizes.log().to(dtype).squeeze(-1), (0, room))
    return mask[:, None, None, :][..., :tokens]


class TomeBlock(torch.nn.Module):
    """A block of timm's that merges `count` tokens between its attention and its MLP."""

    def __init__(self, block, count, fused):
        super().__init__()
        self.block, self.count, self.fused = block, count, fused

    def attention(self, x, sizes):
        attn = self.block.attn
        batch, tokens, width = x.shape
        qkv = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query, key = attn.q_norm(query), attn.k_norm(key)
        if self.fused:
            mask = None if sizes is None else sizes_as_mask(sizes, query.dtype)
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            scores = (query * attn.scale) @ key.transpose(-2, -1)
            if sizes is not None:
                scores = scores + sizes.log()[:, None, None, :, 0]
            out = scores.softmax(dim=-1) @ value
        out = out.transpose(1, 2).reshape(batch, tokens, width)
        return attn.proj(out), key.mean(dim=1)

    def forward(self, x, sizes):
        block = self.block
        attended, keys = self.attention(block.norm1(x), sizes)
        x = x + block.ls1(attended)
        # At most half of the patches go: each of the others can be sought, but does not seek.
        count = min(self.count, (x.shape[1] - 1) // 2)
        if count > 0:
            if sizes is None:
                sizes = torch.ones_like(x[..., :1])
            x, sizes = merge(x, sizes, keys, count)
        return x + block.ls2(block.mlp(block.norm2(x))), sizes


class Tome(torch.nn.Module):
    """timm's ViT with merging blocks; `counts` says how many tokens merge in each."""

    def __init__(self, model, counts, fused):
        super().__init__()
        self.model = model
        self.blocks = torch.nn.ModuleList(
            TomeBlock(block, count, fused) for block, count in zip(model.blocks, counts, strict=True)
        )

    def forward(self, images, trace=None):
        model = self.model
        x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        sizes = None
        for block in self.blocks:
            x, sizes = block(x, sizes)
            if trace is not None:
                trace.append((x.shape[1], sizes))
        return model.forward_head(model.norm(x))


# --- What it costs


def tokens_left(name, counts):
    """After each block. At most half of the patches go in one."""
    size, patch, *_ = MODELS[name]
    left = (size // patch) ** 2 + 1
    after = []
    for count in counts:
        left -= min(count, (left - 1) // 2)
        after.append(left)
    return after


def flops(name, counts):
    """Of one image: matrix products, two for a multiplication and an addition; those of the matching included."""
    size, patch, width, _, heads, ratio = MODELS[name]
    tokens = (size // patch) ** 2 + 1
    total = 2 * (tokens - 1) * 3 * patch * patch * width + 2 * width * CLASSES
    for left in tokens_left(name, counts):
        total += 2 * tokens * width * 4 * width + 4 * tokens * tokens * width
        total += 4 * left * width * width * ratio
        if left < tokens:
            seekers = (tokens - 1) // 2
            total += 2 * (seekers * (tokens - 1 - seekers) * (width // heads) + (tokens - left) * width)
        tokens = left
    return total


def counts_for(name, share):
    """ToMe's constant number of pairs a block: the one whose FLOPs come nearest to that share of dense."""
    blocks = MODELS[name][3]
    dense = flops(name, [0] * blocks)
    best = min(range(200), key=lambda count: abs(flops(name, [count] * blocks) / dense - share))
    return [best] * blocks


# --- Timing


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def time_passes(run, device, seconds, fewest=10, most=1000):
    """Seconds of each pass, start to result, and of a pass where many are queued and waited for once."""
    warm = time.perf_counter()
    warmed = 0
    while warmed < 3 or (time.perf_counter() - warm < seconds / 3 and warmed < most):
        run()
        warmed += 1
        if device == "cpu" and time.perf_counter() - warm > seconds:
            break
    synchronize(device)
    passes = []
    begin = time.perf_counter()
    while len(passes) < most and (len(passes) < fewest or time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        run()
        synchronize(device)
        passes.append(time.perf_counter() - start)
        # A slow machine need not take hours for `fewest` of them.
        if time.perf_counter() - begin > 10 * seconds and len(passes) >= 3:
            break
    queued = None
    if device == "cuda":
        count = max(5, min(most, int(seconds / statistics.median(passes))))
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        queued = start.elapsed_time(end) / 1e3 / count
    return passes, queued


def timings(passes, queued, batch):
    median = statistics.median(passes)
    return {
        "images_per_s": batch / median,
        "images_per_s_queued": batch / queued if queued else None,
        "ms_per_image": {
            "median": 1e3 * median / batch,
            "min": 1e3 * min(passes) / batch,
            "max": 1e3 * max(passes) / batch,
        },
        "passes": len(passes),
    }


def precision(dtype):
    return {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]


def device_name(device):
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def free(device):
    gc.collect()
    if device == "cuda":
        # Statistics can be reset after that alone, and it says clearly why there is no GPU.
        torch.cuda.init()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mib(device):
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None


# --- The questions


def inference_pass(cell):
    """A function that computes one batch and brings the logits to the host, and what is known of it."""
    name, batch, device = cell["model"], cell["batch"], cell["device"]
    dtype, variant = cell.get("dtype", "f32"), cell["variant"]
    kind = precision(dtype)
    model = dense_model(name, device)
    images = torch.randn(batch, 3, MODELS[name][0], MODELS[name][0], device=device)
    context = contextlib.nullcontext
    if variant == "autocast":

        def context():
            return torch.autocast(device, dtype=kind)

    else:
        model, images = model.to(kind), images.to(kind)
    counts = [0] * MODELS[name][3]
    if variant.startswith("tome"):
        counts = counts_for(name, cell.get("share", SHARE))
        model = Tome(model, counts, fused=variant != "tome").eval()
    if "compile" in variant:
        mode = "reduce-overhead" if variant.endswith("reduce-overhead") else None
        model = torch.compile(model, mode=mode, dynamic=False)

    def run():
        with torch.inference_mode(), context():
            return model(images).float().cpu()

    def queue():
        with torch.inference_mode(), context():
            return model(images)

    dense = flops(name, [0] * len(counts))
    facts = {
        "merged_per_block": counts[0],
        "tokens_per_layer": tokens_left(name, counts),
        "flops_per_image": flops(name, counts),
        "flops_share": flops(name, counts) / dense,
    }
    return run, queue, facts


def infer(cell):
    seconds, device = cell.get("seconds", 0.4), cell["device"]
    run, queue, facts = inference_pass(cell)
    start = time.perf_counter()
    # Compiling happens here.
    run()
    first = time.perf_counter() - start
    passes, _ = time_passes(run, device, seconds)
    _, queued = time_passes(queue, device, seconds / 2, fewest=3) if device == "cuda" else (None, None)
    return facts | timings(passes, queued, cell["batch"]) | {"first_pass_s": first}


def train(cell):
    """The original training step computes seven dense forward passes, and one of them backwards."""
    name, batch, device = cell["model"], cell["batch"], cell["device"]
    dtype, seconds = cell.get("dtype", "f32"), cell.get("seconds", 0.4)
    model = dense_model(name, device).train()
    size = MODELS[name][0]
    images = torch.randn(batch, 3, size, size, device=device)
    targets = torch.arange(batch, device=device) % CLASSES

    def context():
        if dtype == "f32":
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=precision(dtype))

    def forward():
        with torch.no_grad(), context():
            model(images)

    def forward_backward():
        model.zero_grad(set_to_none=True)
        with context():
            loss = F.cross_entropy(model(images).float(), targets)
        loss.backward()

    forwards, _ = time_passes(forward, device, seconds)
    both, _ = time_passes(forward_backward, device, seconds)
    forward_s, both_s = statistics.median(forwards), statistics.median(both)
    step = 6 * forward_s + both_s
    return {
        "forward_images_per_s": batch / forward_s,
        "forward_backward_images_per_s": batch / both_s,
        "modelled_step": "6 forward passes without a graph, 1 with one and backwards; no agents, no optimiser",
        "modelled_step_images_per_s": batch / step,
    }


def ceilings(cell):
    """What the machine reaches on one large product and one large copy: what all else is to be held against."""
    device = cell["device"]
    side = 8192 if device == "cuda" else 256
    found = {"matrix_side": side}
    for dtype in ("bf16", "f32"):
        factors = [torch.randn(side, side, device=device, dtype=precision(dtype)) for _ in range(2)]
        passes, _ = time_passes(partial(torch.matmul, *factors), device, 0.3)
        found[f"{dtype}_tflops"] = 2 * side**3 / statistics.median(passes) / 1e12
    count = 2**30 if device == "cuda" else 2**20
    source = torch.randn(count // 4, device=device)
    target = torch.empty_like(source)
    passes, _ = time_passes(lambda: target.copy_(source), device, 0.2)
    found["copy_tb_per_s"] = 2 * count / statistics.median(passes) / 1e12
    return found


def versions(cell):
    import timm

    device = cell["device"]
    found = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "timm": timm.__version__,
        "python": sys.version.split()[0],
        "tf32_for_products": torch.backends.cuda.matmul.allow_tf32,
        "f32_matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
    }
    with contextlib.suppress(ImportError):
        import triton

        found["triton"] = triton.__version__
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_mib": properties.total_memory // 2**20,
            "capability": f"{properties.major}.{properties.minor}",
        }
    return found


def checked(cell):
    return {"check": "passed", **check(cell["device"], cell["model"])}


KINDS = {"infer": infer, "train": train, "ceilings": ceilings, "versions": versions, "check": checked}


def answer(cell):
    """A row; whatever goes wrong stands in it."""
    device = cell.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    row = {"program": "pytorch", **{key: value for key, value in cell.items() if key != "seconds"}}
    start = time.perf_counter()
    try:
        free(device)
        row |= KINDS[cell["kind"]](cell)
        row["peak_gpu_mib"] = peak_mib(device)
    except torch.cuda.OutOfMemoryError:
        row["error"] = "out of GPU memory"
    except AssertionError as error:
        row |= {"check": "failed", "error": str(error)}
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {str(error).strip()[-600:]}"
    # Compiled functions hold on to their model.
    if "compile" in cell.get("variant", ""):
        torch._dynamo.reset()
    row["cell_s"] = round(time.perf_counter() - start, 2)
    return row


# --- Is the ToMe written here the one of the paper?


def merge_one_by_one(tokens, sizes, keys, count):
    """The same as `merge`, for one image, in plain loops."""
    places = range(len(tokens))
    unit = keys / keys.norm(dim=-1, keepdim=True)
    pairs = []
    for seeker in places[2::2]:
        similarity, into = max((float(unit[seeker] @ unit[other]), -other) for other in places[1::2])
        pairs.append((similarity, seeker, -into))
    pairs.sort(reverse=True)
    sums = {place: tokens[place] * sizes[place] for place in places}
    totals = {place: float(sizes[place]) for place in places}
    for _, seeker, into in pairs[:count]:
        sums[into] = sums[into] + tokens[seeker] * sizes[seeker]
        totals[into] += float(sizes[seeker])
        del sums[seeker], totals[seeker]
    order = [place for place in (*places[0::2], *places[1::2]) if place in sums]
    return torch.stack([sums[place] / totals[place] for place in order]), [totals[place] for place in order]


def check(device, name):
    """Raises AssertionError where something is wrong."""
    size, blocks = MODELS[name][0], MODELS[name][3]
    model = dense_model(name, device)
    # Biases and norms start at 0 and 1 and would hide mistakes.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randn(3, 3, size, size, device=device)
    results = {}
    with torch.inference_mode():
        expected = model(images)
        # Kernels of a GPU round otherwise than single operations do.
        tolerance = 1e-3 * float(expected.abs().max())
        for fused in (False, True):
            apart = float((Tome(model, [0] * blocks, fused)(images) - expected).abs().max())
            results[f"r=0, fused={fused}"] = apart
            assert apart <= tolerance, f"r = 0 differs by {apart} from the unpatched model"

        counts = counts_for(name, SHARE)
        logits = {}
        for fused in (False, True):
            trace = []
            logits[fused] = Tome(model, counts, fused)(images, trace)
            assert [tokens for tokens, _ in trace] == tokens_left(name, counts), "other token counts than planned"
            sums = trace[-1][1].sum(dim=1)
            patches = tokens_left(name, [0])[0]
            assert torch.allclose(sums, torch.full_like(sums, patches)), "sizes do not add up to the patches"
        apart = float((logits[True] - logits[False]).abs().max())
        results["attention by operations and by kernel"] = apart
        assert apart <= tolerance, f"the two kinds of attention differ by {apart}"

        tokens, keys = (torch.randn(2, 18, 6, device=device) for _ in range(2))
        sizes = torch.randint(1, 4, (2, 18, 1), device=device).float()
        merged, merged_sizes = merge(tokens, sizes, keys, 5)
        for image in range(2):
            rows, totals = merge_one_by_one(tokens[image], sizes[image], keys[image], 5)
            assert torch.allclose(merged[image], rows, atol=1e-5), "merging differs from the loop"
            assert merged_sizes[image].flatten().tolist() == totals, "sizes differ from the loop"
        # Alike without exception: nothing changes but the number of tokens.
        same = torch.ones(1, 18, 6, device=device)
        merged, merged_sizes = merge(same, torch.ones(1, 18, 1, device=device), same, 8)
        assert torch.allclose(merged, torch.ones_like(merged)) and merged.shape[1] == 10
        assert float(merged_sizes.sum()) == 18
    dense = flops(name, [0] * blocks)
    results |= {
        "merged_per_block": counts[0],
        "tokens": tokens_left(name, counts),
        "flops_share": flops(name, counts) / dense,
        "dense_gflops": dense / 1e9,
    }
    return results


# --- The command line


def serve(out):
    for line in sys.stdin:
        line = line.strip()
        if not line:
            continue
        for cell in json.loads(line)["cells"]:
            print(json.dumps(answer(cell)), file=out, flush=True)
        print(json.dumps({"done": True}), file=out, flush=True)


def fixed_passes(args, out):
    """So many passes and no clock: for a profile, which tells passes by the copies of their logits."""
    for variant in args.variant.split(","):
        cell = {
            "model": args.model,
            "batch": args.batch,
            "dtype": args.dtype,
            "device": args.device,
            "variant": variant,
        }
        run, _, facts = inference_pass(cell)
        for _ in range(args.passes):
            run()
        print(json.dumps({"program": "pytorch", **cell, **facts, "passes": args.passes}), file=out, flush=True)


def main():
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="variants: " + "; ".join(f"{name}: {text}" for name, text in VARIANTS.items()),
    )
    parser.add_argument("what", choices=["serve", "run", "check"])
    parser.add_argument("--kind", choices=["infer", "train", "ceilings", "versions"], default="infer")
    parser.add_argument("--model", choices=MODELS, default="vit-b16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="bf16")
    parser.add_argument("--variant", default="eager,tome,tome-sdpa", help="with commas")
    parser.add_argument("--share", type=float, default=SHARE, help="of the dense FLOPs that ToMe shall compute")
    parser.add_argument("--seconds", type=float, default=0.4, help="to measure each for")
    parser.add_argument("--passes", type=int, help="run so many and measure nothing")
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    # What libraries print must not stand among the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if args.what == "serve":
        serve(out)
    elif args.what == "check":
        row = answer({"kind": "check", "model": args.model, "device": args.device})
        print(json.dumps(row), file=out, flush=True)
        if "error" in row:
            sys.exit(f"check: {row['error']}")
    elif args.passes:
        fixed_passes(args, out)
    else:
        cell = {key: getattr(args, key) for key in ("kind", "model", "batch", "dtype", "share", "seconds", "device")}
        variants = [cell | {"variant": variant} for variant in args.variant.split(",")]
        for question in variants if args.kind == "infer" else [cell]:
            print(json.dumps(answer(question)), file=out, flush=True)


if __name__ == "__main__":
    main()
