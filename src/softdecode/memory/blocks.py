"""The repeated blocks of a model, where nearly all of its weights are."""

from torch import nn


def blocks(module: nn.Module) -> list[nn.Module]:
    """The elements of the outermost lists of modules that are called as modules, each once.

    Embeddings, heads, norms, and lists of mere containers (as in a VQ tokenizer) are not among them.
    """
    found: dict[int, nn.Module] = {}
    for child in module.children():
        lists = isinstance(child, nn.ModuleList) and all(_is_callable(element) for element in child)
        for block in child.children() if lists else blocks(child):
            found[id(block)] = block
    return list(found.values())


def _is_callable(module: nn.Module) -> bool:
    return type(module) is not nn.Module and not isinstance(module, nn.ModuleList | nn.ModuleDict)
