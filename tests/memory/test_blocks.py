"""Blocks: nearly all weights, and nothing that is not called as a module."""

from torch import nn

from softdecode.memory.blocks import blocks
from softdecode.models import DEFAULT_VLM
from softdecode.vlm.registry import load_vlm


def test_the_outermost_lists_are_found_and_containers_are_not():
    inner = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]))
    container = nn.Module()
    container.part = nn.Linear(2, 2)
    model = nn.ModuleDict(
        {
            "embed": nn.Linear(2, 2),
            "layers": nn.ModuleList([inner, nn.Linear(2, 2)]),
            "levels": nn.ModuleList([container]),
            "nested": nn.ModuleDict({"layers": nn.ModuleList([nn.Conv2d(1, 1, 1)])}),
        }
    )
    assert blocks(model) == [inner, model["layers"][1], model["nested"]["layers"][0]]


def test_a_vlms_layers_are_its_blocks():
    vlm = load_vlm(DEFAULT_VLM)
    found = {id(block) for block in blocks(vlm)}
    assert {id(layer) for layer in vlm.model.model.language_model.layers} <= found


def test_a_transformers_blocks_hold_most_of_its_weights(make_base):
    transformer = make_base().transformer
    assert [id(block) for block in blocks(transformer)] == [id(b) for b in transformer.single_transformer_blocks]
