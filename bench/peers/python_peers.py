"""Times timm's ViT in one program and precision and prints one JSON line. run.py calls it in its environment."""

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
    """Writes the model as ONNX, for this batch size alone, and where integers are timed as two more files: with weights in
    integers (activations follow as they come), and with all factors in integers by scales of a calibration."""
    import torch

    warnings.simplefilter("ignore")
    model, images = model_and_images(args)
    torch.onnx.export(model, (images,), args.onnx, dynamo=False, opset_version=17)
    if "dynamic" in args.integers:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(args.onnx, of_kind(args.onnx, "dynamic"), weight_type=QuantType.QInt8, per_channel=True,
                         op_types_to_quantize=["MatMul", "Gemm"])
    if "static" in args.integers:
        calibrate(args, of_kind(args.onnx, "static"))
    return {}


def calibrate(args, target):
    """Speed does not depend on the scales: random images calibrate."""
    import numpy
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self):
            batch = (args.batch, 3, 224, 224)
            self.left = [numpy.random.default_rng(0).standard_normal(batch, dtype=numpy.float32)]

        def get_next(self):
            return {"images": self.left.pop()} if self.left else None

    import onnx

    model = onnx.load(args.onnx)
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["images" if each == name else each for each in node.input]
    model.graph.input[0].name = "images"
    prepared = of_kind(args.onnx, "prepared")
    onnx.save(model, prepared)
    quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, target, Images(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    op_types_to_quantize=["MatMul", "Gemm"])


def of_kind(file, kind):
    return file.removesuffix(".onnx") + f"-{kind}.onnx"


def pytorch(args):
    import torch

    model, images = model_and_images(args)
    if args.dtype == "bf16":
        model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)

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
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1
    files = {"f32": args.onnx, "int8": of_kind(args.onnx, "dynamic"), "static": of_kind(args.onnx, "static")}
    session = onnxruntime.InferenceSession(
        files[args.dtype], options, providers=["CPUExecutionProvider"]
    )
    images = random_images(args)
    inputs = {session.get_inputs()[0].name: images}
    return {
        "version": onnxruntime.__version__,
        "threads": args.threads,
        "images_per_s": images_per_s(lambda: session.run(None, inputs), args),
    }


def openvino(args):
    import openvino

    core = openvino.Core()
    file = of_kind(args.onnx, "static") if args.dtype == "static" else args.onnx
    # It chooses bfloat16 where the CPU has it; integers stand in the file, and bfloat16 may be around them.
    precision = "f32" if args.dtype == "f32" else "bf16"
    compiled = core.compile_model(core.read_model(file), "CPU", {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": args.threads,
    })
    request = compiled.create_infer_request()
    images = random_images(args)
    return {
        "version": openvino.__version__.split("-")[0],
        "threads": args.threads,
        "images_per_s": images_per_s(lambda: request.infer([images]), args),
    }


def random_images(args):
    import numpy

    shape = (args.batch, 3, 224, 224)
    return numpy.random.default_rng(0).standard_normal(shape, dtype=numpy.float32)


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
    parser.add_argument("program", choices=["pytorch", "onnxruntime", "openvino", "export"])
    parser.add_argument("--dtype", choices=["f32", "bf16", "int8", "static"], default="f32")
    parser.add_argument("--integers", action="append", default=[], choices=["dynamic", "static"])
    parser.add_argument("--model", choices=MODELS, default="vit-s16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--onnx", help="file that export writes and the others read")
    args = parser.parse_args()
    if args.program != "pytorch" and not args.onnx:
        parser.error(f"{args.program} needs --onnx FILE")
    program = {"pytorch": pytorch, "onnxruntime": onnxruntime, "openvino": openvino, "export": export}
    print(json.dumps(program[args.program](args)))


if __name__ == "__main__":
    main()
