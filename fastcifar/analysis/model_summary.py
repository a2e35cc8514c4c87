"""Summary of a network: layers, shapes, parameters, multiply-adds, memory and receptive fields.

All but the receptive fields comes from torchinfo (github.com/TylerYep/torchinfo). It counts the multiply-adds of
convolutions and linear layers, one per output that has a bias, and one per parameter of a batch norm.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torchinfo
from torch import nn

from fastcifar.analysis.receptive_field import Field, receptive_fields


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """One module, including its children."""

    name: str
    """Qualified name, such as "layer1.0.conv"."""
    kind: str
    """Class, such as "Conv2d"."""
    depth: int
    """1 for a stage, which is a direct child of the network."""
    has_children: bool
    output_shape: tuple[int, ...]
    """Without the batch dimension."""
    parameters: int
    multiply_adds: int
    """For the whole batch."""
    receptive_field: Field | None
    """Height and width in pixels; None if the output is not a tensor."""


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """A network at one batch size. Bytes are for float32 values."""

    input_shape: tuple[int, ...]
    """[B, C, H, W]."""
    layers: tuple[LayerSummary, ...]
    """In the order of the calls, each module before its children."""
    parameters: int
    trainable_parameters: int
    multiply_adds: int
    """For the whole batch."""
    input_bytes: int
    forward_backward_bytes: int
    """Outputs of the layers that have parameters, and their gradients, which take as much again."""
    parameter_bytes: int

    @property
    def stages(self) -> tuple[LayerSummary, ...]:
        """The direct children of the network."""
        return tuple(layer for layer in self.layers if layer.depth == 1)

    to_json = dataclasses.asdict
    """Return the fields by name, as plain JSON values."""


def summarize(model: nn.Module, image_shape: Sequence[int] = (3, 32, 32), *, batch_size: int = 1) -> ModelSummary:
    """Run a copy of a network, which takes float32 images [B, C, H, W], on the CPU and summarize it.

    `image_shape` is C, H, W, and `batch_size` is B.
    """
    shape, model = (batch_size, *image_shape), copy.deepcopy(model)
    counted = torchinfo.summary(model, input_size=shape, depth=100, device="cpu", mode="eval", verbose=0)
    fields = receptive_fields(model, image_shape)
    names = {id(module): name for name, module in model.named_modules()}
    return ModelSummary(
        input_shape=shape,
        layers=tuple(_layer(layer, names[layer.layer_id], fields) for layer in counted.summary_list if layer.depth > 0),
        parameters=counted.total_params,
        trainable_parameters=counted.trainable_params,
        multiply_adds=counted.total_mult_adds,
        input_bytes=counted.total_input,
        forward_backward_bytes=counted.total_output_bytes,
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
    )


def _layer(layer: Any, name: str, fields: dict[str, Field]) -> LayerSummary:
    modules = layer.children or [layer]  # torchinfo lists the descendants of all depths here
    return LayerSummary(
        name=name,
        kind=layer.class_name,
        depth=layer.depth,
        has_children=not layer.is_leaf_layer,
        output_shape=tuple(layer.output_size[1:]),
        parameters=layer.num_params,
        multiply_adds=sum(module.macs for module in modules if module.is_leaf_layer),
        receptive_field=fields.get(name),
    )
