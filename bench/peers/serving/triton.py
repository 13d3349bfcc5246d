"""Triton's HTTP client against `aptvit serve`: does an independent client list, load and infer?

    pip install 'tritonclient[http]' numpy
    python3 triton.py 127.0.0.1:8080 MODEL PICTURE

Exits with 1 where a claim does not hold.
"""

import base64
import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

address, model, picture = sys.argv[1:]
client = http.InferenceServerClient(address)

assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
assert model in [entry["name"] for entry in client.get_model_repository_index()]
client.load_model(model)
metadata = client.get_model_metadata(model)
shapes = {tensor["name"]: tensor["shape"] for tensor in metadata["inputs"] + metadata["outputs"]}
print("lists and loads:", shapes)

file = open(picture, "rb").read()
pictures = http.InferInput("image", [2], "BYTES")
answers = {}
for binary in (True, False):
    if binary:
        pictures.set_data_from_numpy(np.array([file, file], dtype=object), binary_data=True)
    else:
        texts = [base64.b64encode(file)] * 2
        pictures.set_data_from_numpy(np.array(texts, dtype=object), binary_data=False)
    outputs = [
        http.InferRequestedOutput("logits", binary_data=binary),
        http.InferRequestedOutput("probabilities", binary_data=binary),
    ]
    result = client.infer(model, [pictures], outputs=outputs, request_id="one")
    logits, probabilities = result.as_numpy("logits"), result.as_numpy("probabilities")
    assert logits.shape == (2, shapes["logits"][1]) and result.get_response()["id"] == "one"
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(logits[0], logits[1], atol=1e-4)
    answers[binary] = logits
assert np.allclose(answers[True], answers[False], atol=1e-4)
print("binary and JSON say the same: best class", int(answers[True][0].argmax()))

_, channels, height, width = shapes["pixels"]
values = np.random.default_rng(1).standard_normal((3, channels, height, width), dtype=np.float32)
results = []
for binary, batch in ((True, values), (False, values[:1])):
    pixels = http.InferInput("pixels", list(batch.shape), "FP32")
    pixels.set_data_from_numpy(batch, binary_data=binary)
    results.append(client.infer(model, [pixels]).as_numpy("logits")[0])
assert np.allclose(*results, atol=1e-4)
print("preprocessed values in binary and JSON say the same")

top = http.InferRequestedOutput("probabilities", class_count=3)
pictures.set_data_from_numpy(np.array([file, file], dtype=object), binary_data=True)
classes = client.infer(model, [pictures], outputs=[top]).as_numpy("probabilities")
assert classes.shape == (2, 3)
print("classification:", classes[0])

embedding = http.InferRequestedOutput("embedding")
features = client.infer(model, [pictures], outputs=[embedding]).as_numpy("embedding")
assert features.shape == (2, shapes["embedding"][1])

pruned = client.infer(model, [pictures], parameters={"flops": 0.7}, priority=1, timeout=20_000_000)
share = pruned.get_response()["parameters"]["flops_share"]
assert share <= 0.7, share
print("a share in the parameters is kept to:", share)

for wrong in ("nothing", model):
    try:
        bad = http.InferInput("image", [1], "BYTES")
        bad.set_data_from_numpy(np.array([b"no picture"], dtype=object))
        client.infer(wrong, [bad])
        sys.exit(f"{wrong}: what is wrong was not refused")
    except InferenceServerException as error:
        print("refused:", error.message())
try:
    client.unload_model(model)
    sys.exit("unloading was not refused")
except InferenceServerException:
    pass
print("all claims hold")
