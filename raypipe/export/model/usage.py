"""The lines of Python that a model card shows. The tests run them."""

from __future__ import annotations

from raypipe.export.model.config_json import output_name
from raypipe.export.model.graph import INPUT
from raypipe.export.model.torchvision_recipe import TorchvisionRecipe
from raypipe.predict.model import TrainedModel
from raypipe.train.networks.heads import ScoreHead

_ACTIVATIONS = {
    "binary": "{}.sigmoid().squeeze(1)",
    "classes": "{}.softmax(1)",
    "tags": "{}.sigmoid()",
    "score": "{}.squeeze(1)",
}


def reading_code(model: TrainedModel) -> str:
    """Lines that read picture.jpg into `pictures`, in the same way as training."""
    size, twice = f"({model.image_size}, {model.image_size})", 2 * model.image_size
    return f"""\
import numpy as np
from PIL import Image, ImageOps

picture = Image.open("picture.jpg")
picture.draft("RGB", ({twice}, {twice}))  # a large JPEG is decoded smaller, as in training
upright = ImageOps.exif_transpose(picture).convert("RGB")
small = upright.resize({size}, Image.Resampling.BILINEAR)
{INPUT} = np.asarray(small).transpose(2, 0, 1)[None].copy()  # uint8 [1, 3, {model.image_size}, {model.image_size}]"""


def usage_examples(
    model: TrainedModel, torchvision_recipe: TorchvisionRecipe | None, *, onnx: bool
) -> list[tuple[str, str]]:
    """A heading and lines for each file. The lines put the answer in a variable with the name of the graphs' output."""
    output = output_name(model.head.target)
    found = [
        (
            "`model.safetensors` with raypipe:",
            f"""\
from pathlib import Path
from raypipe.predict.model import TrainedModel

model = TrainedModel.from_bytes(Path("model.safetensors").read_bytes(), "model.safetensors")
{output} = model.predictions({INPUT})
print(model.classes, {output})""",
        )
    ]
    if torchvision_recipe is not None:
        found.append(("`model.safetensors` with torchvision alone:", _torchvision(model, torchvision_recipe, output)))
    found.append(
        (
            "`model.pt2` with torch alone:",
            f"""\
import torch

graph = torch.export.load("model.pt2").module()
{output} = graph(torch.from_numpy({INPUT}))
print({output})""",
        )
    )
    if onnx:
        found.append(
            (
                "`model.onnx` with onnxruntime alone:",
                f"""\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
({output},) = session.run(None, {{"{INPUT}": {INPUT}}})
print({output})""",
            )
        )
    return found


def _torchvision(model: TrainedModel, torchvision_recipe: TorchvisionRecipe, output: str) -> str:
    pre, head = model.preprocessing, model.head
    name = "name" + "".join(f'.replace("{ours}", "{theirs}")' for ours, theirs in torchvision_recipe.rename.items())
    images = f"torch.from_numpy({INPUT})" + (".flip(1)" if pre.channel_order == "bgr" else "")
    answer = _ACTIVATIONS[head.target.kind].format("network(images)")
    if isinstance(head, ScoreHead):
        answer += f" * {head.sd!r} + {head.mean!r}"
    lines = "\n".join(torchvision_recipe.lines)
    return f"""\
import torch, torchvision
from safetensors.torch import load_file

{lines}
state = load_file("model.safetensors")
network.load_state_dict({{{name}: value for name, value in state.items()}})
network.eval()
mean, std = (torch.tensor(values).view(3, 1, 1) for values in ({list(pre.mean)}, {list(pre.std)}))
images = ({images} * {pre.scale!r} - mean) / std
with torch.no_grad():
    {output} = {answer}
print({output})"""
