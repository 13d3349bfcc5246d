"""The server that people write instead: FastAPI, Pillow, and ONNX Runtime, one picture a request.

    pip install fastapi uvicorn onnxruntime pillow numpy
    python3 onnx_server.py model.onnx --threads 2 --port 8081

`POST /classify` takes a picture as its body. With `--batch N`, pictures that wait are computed together, N at most: what
waits when the batch before ends, without a timer, as aptvit does.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import io

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, UnidentifiedImageError

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("onnx")
parser.add_argument("--threads", type=int, default=2, help="of one pass")
parser.add_argument("--passes", type=int, default=1, help="passes at once")
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--port", type=int, default=8081)
args = parser.parse_args()

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = args.threads
options.inter_op_num_threads = 1
# Threads that spin while they wait would take the cores from decoding.
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(args.onnx, options, providers=["CPUExecutionProvider"])
[name] = [tensor.name for tensor in session.get_inputs()]

decoding = concurrent.futures.ThreadPoolExecutor(2)
computing = concurrent.futures.ThreadPoolExecutor(args.passes)
queue = asyncio.Queue()


def decode(body):
    picture = Image.open(io.BytesIO(body)).convert("RGB")
    scale = 248 / min(picture.size)
    size = [max(224, round(side * scale)) for side in picture.size]
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    values = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32)
    return ((values / 255 - 0.5) / 0.5).transpose(2, 0, 1)


def compute(images):
    logits = session.run(None, {name: np.ascontiguousarray(np.stack(images))})[0]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


async def batches():
    loop = asyncio.get_running_loop()
    while True:
        waiting = [await queue.get()]
        while len(waiting) < args.batch and not queue.empty():
            waiting.append(queue.get_nowait())
        answers = await loop.run_in_executor(computing, compute, [image for image, _ in waiting])
        for (_, future), answer in zip(waiting, answers):
            if not future.done():
                future.set_result(answer)


@contextlib.asynccontextmanager
async def running(_):
    tasks = [asyncio.create_task(batches()) for _ in range(args.passes)]
    yield
    for task in tasks:
        task.cancel()


app = FastAPI(lifespan=running)


@app.post("/classify")
async def classify(request: Request):
    loop = asyncio.get_running_loop()
    try:
        image = await loop.run_in_executor(decoding, decode, await request.body())
    except (UnidentifiedImageError, OSError) as error:
        raise HTTPException(422, str(error)) from error
    future = loop.create_future()
    await queue.put((image, future))
    probabilities = await future
    best = np.argsort(probabilities)[::-1][:5]
    return {"classes": [{"index": int(index), "probability": float(probabilities[index])} for index in best]}


uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", access_log=False)
