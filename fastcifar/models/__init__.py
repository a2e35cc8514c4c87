"""Networks by name."""

import dataclasses
import inspect
from typing import Any

from torch import nn

from fastcifar.errors import ConfigError, closest
from fastcifar.models.custom_resnet import CustomResNet
from fastcifar.models.dilated_cnn import DilatedCNN
from fastcifar.models.speed_cnn import SpeedCNN
from fastcifar.settings import ModelSettings

MODELS: dict[str, type[nn.Module]] = {"custom_resnet": CustomResNet, "dilated_cnn": DilatedCNN, "speed_cnn": SpeedCNN}


def create_model(name: str = "custom_resnet", **options: Any) -> nn.Module:
    """Create a network by name, its initial weights drawn from torch's default generator.

    Args:
        name: a key of `MODELS`.
        options: keyword arguments of the network: `num_classes` (default 10); `dropout` (0.0; custom_resnet and
            dilated_cnn); `logit_scale` (1.0; custom_resnet and speed_cnn); `conv_bias` and `layer2_residual` (False;
            custom_resnet); `widths` ((64, 256, 256)) and `depth` (2; speed_cnn).

    Raises:
        ConfigError: there is no such network, or it does not take these options.
    """
    if name not in MODELS:
        known = ", ".join(MODELS)
        raise ConfigError(f"model is {name!r}; it must be one of {known}: did you mean {closest(name, MODELS)}?")
    parameters = inspect.signature(MODELS[name]).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [option for option in options if option not in parameters]
    if unknown and not takes_any:
        raise ConfigError(f"model {name} has no option {unknown[0]}; its options are {', '.join(parameters)}")
    try:
        return MODELS[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {name} does not take these options: {error}") from error


def model_from_config(settings: ModelSettings, num_classes: int) -> nn.Module:
    """Create the network that the settings name, with `num_classes` logits.

    Raises:
        ConfigError: there is no such network, or it does not take an option that was set.
    """
    options = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(ModelSettings)
        if field.name != "model" and getattr(settings, field.name) != field.default
    }
    return create_model(settings.model, num_classes=num_classes, **options)
