"""Tensors that a forward pass makes for every image, as CLIP's class token is made, in graphs and in files."""

import pytest
import torch
from torch import nn

import agf_fx


class Tokens(nn.Module):
    def __init__(self, create):
        super().__init__()
        self.embed, self.mix, self.fc = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.token, self.create = nn.Parameter(torch.randn(4)), (create,)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        first = self.token + self.create[0](x)
        return self.fc(torch.relu(self.mix(torch.cat([first, tokens], 1))).mean(1))


CREATED = {
    "zeros": lambda x: torch.zeros(x.shape[0], 1, 4, dtype=x.dtype, device=x.device),
    "ones": lambda x: torch.ones((x.shape[0], 1, 4), device=x.device),
    "full": lambda x: torch.full((x.shape[0], 1, 4), 0.5, device=x.device),
    "new": lambda x: x.new_zeros(x.shape[0], 1, 4),
}
SUFFIX = {"torchscript": "pt", "export": "pt2", "onnx": "onnx"}


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.parametrize("name", CREATED)
def test_files_make_them_too(name, format, tmp_path):
    torch.manual_seed(0)
    model, images = Tokens(CREATED[name]).eval(), torch.randn(3, 3, 8, 8)
    explainer = agf_fx.compile(model, images)
    torch.testing.assert_close(explainer.explain(images, 1).logits, model(images).detach())
    path = tmp_path / f"x.{SUFFIX[format]}"
    explainer.export(path, format)
    torch.testing.assert_close(agf_fx.load(path)(images, 1), explainer(images, 1), rtol=1e-4, atol=1e-5)
