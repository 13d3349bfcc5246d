"""Times timm's ViT in one program and prints one JSON line. run.py calls it in its environment."""

import argparse
import json
import statistics
import time
import warnings

MODELS = {"vit-s16": "vit_small_patch16_224", "vit-b16": "vit_base_patch16_224"}


def model_and_images(args):
    """timm's model with random weights, and random images."""
    import timm
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = timm.create_model(MODELS[args.model], pretrained=False).eval()
    return model, torch.randn(args.batch, 3, 224, 224)


def export(args):
    """Writes the model as ONNX, for this batch size alone."""
    import torch

    warnings.simplefilter("ignore")
    model, images = model_and_images(args)
    torch.onnx.export(model, (images,), args.onnx, dynamo=False, opset_version=17)
    return {}


def pytorch(args):
    import torch

    model, images = model_and_images(args)

    def forward():
        with torch.inference_mode():
            model(images)

    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "images_per_s": images_per_s(forward, args),
    }


def onnxruntime(args):
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        args.onnx, options, providers=["CPUExecutionProvider"]
    )
    images = numpy.random.default_rng(0).standard_normal(
        (args.batch, 3, 224, 224), dtype=numpy.float32
    )
    inputs = {session.get_inputs()[0].name: images}
    return {
        "version": onnxruntime.__version__,
        "threads": args.threads,
        "images_per_s": images_per_s(lambda: session.run(None, inputs), args),
    }


def images_per_s(forward, args):
    """Of the median pass."""
    seconds = []
    for _ in range(args.warmup + args.repeats):
        start = time.perf_counter()
        forward()
        seconds.append(time.perf_counter() - start)
    return args.batch / statistics.median(seconds[args.warmup :])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=["pytorch", "onnxruntime", "export"])
    parser.add_argument("--model", choices=MODELS, default="vit-s16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--onnx", help="file that export writes and onnxruntime reads")
    args = parser.parse_args()
    if args.program != "pytorch" and not args.onnx:
        parser.error(f"{args.program} needs --onnx FILE")
    program = {"pytorch": pytorch, "onnxruntime": onnxruntime, "export": export}
    print(json.dumps(program[args.program](args)))


if __name__ == "__main__":
    main()
