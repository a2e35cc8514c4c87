"""Networks by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from torch import nn

from fastcifar.errors import ConfigError
from fastcifar.models.custom_resnet import CustomResNet
from fastcifar.models.dilated_cnn import DilatedCNN
from fastcifar.models.speed_cnn import SpeedCNN
from fastcifar.settings import ModelSettings

MODELS: dict[str, Callable[..., nn.Module]] = {
    "custom_resnet": CustomResNet,
    "dilated_cnn": DilatedCNN,
    "speed_cnn": SpeedCNN,
}


def create_model(name: str = "custom_resnet", **options: Any) -> nn.Module:
    """A freshly initialised network, its weights drawn from torch's generator.

    Args:
        name: a key of `MODELS`.
        options: `num_classes` (10) for each; `dropout` (0.0) for custom_resnet and dilated_cnn; `logit_scale` (1.0) for
            custom_resnet and speed_cnn; `conv_bias` (False) and `layer2_residual` (False) for custom_resnet; `widths`
            (64, 256, 256) for speed_cnn.

    Raises:
        ConfigError: there is no network of that name, or it has no such option.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0)[0]
        raise ConfigError(f"model is {name!r}; there is {', '.join(MODELS)}: did you mean {near}?")
    try:
        return MODELS[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {name} does not take these options: {error}") from error


def model_from_config(settings: ModelSettings, num_classes: int) -> nn.Module:
    """The network that the settings name, with `num_classes` logits.

    Raises:
        ConfigError: there is no such network, or it has no option that was set.
    """
    options = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(ModelSettings)
        if field.name != "model" and getattr(settings, field.name) != field.default
    }
    return create_model(settings.model, num_classes=num_classes, **options)
