"""timm's ViT with random weights, once for `aptvit serve` and once for ONNX Runtime: the same model in both.

    python3 export.py FOLDER [timm's name]

Writes FOLDER/model.safetensors and FOLDER/config.json (timm's form, which aptvit reads) and FOLDER/model.onnx (any batch
size). Speed does not depend on the weights.
"""

import json
import os
import sys
import warnings

import timm
import torch
from safetensors.torch import save_file

folder = sys.argv[1]
name = sys.argv[2] if len(sys.argv) > 2 else "vit_small_patch16_224"
os.makedirs(folder, exist_ok=True)
torch.manual_seed(0)
model = timm.create_model(name, pretrained=False).eval()
# timm starts the head near zero: all classes would be as probable as each other.
torch.nn.init.normal_(model.head.weight, std=0.3)
save_file({key: value.contiguous() for key, value in model.state_dict().items()}, f"{folder}/model.safetensors")
config = {
    "architecture": name,
    "num_classes": model.num_classes,
    "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224], "crop_pct": 0.9},
}
with open(f"{folder}/config.json", "w") as file:
    json.dump(config, file, indent=2)
warnings.simplefilter("ignore")
images = torch.randn(2, 3, 224, 224)
names = {"input_names": ["pixels"], "output_names": ["logits"], "dynamic_axes": {"pixels": {0: "n"}, "logits": {0: "n"}}}
torch.onnx.export(model, (images,), f"{folder}/model.onnx", dynamo=False, opset_version=17, **names)
