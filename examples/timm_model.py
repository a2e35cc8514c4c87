"""Train a network from timm with `fastcifar.fit`. Any network from images [B, 3, H, W] to logits can take its place.

python examples/timm_model.py --data-dir data/betons --model resnet18 --epochs 5
"""

import argparse
import sys
from pathlib import Path

import timm
import torch
from torch import nn

import fastcifar
from fastcifar.data.manifest import read_manifest


def create_model(name: str, num_classes: int) -> nn.Module:
    """Create an untrained network for small images.

    Networks for ImageNet begin with a convolution of stride 2 or 4, after which images of 32 × 32 pixels are too small
    for the later layers. With a stride of 1 the convolution keeps their size.
    """
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.stride = (1, 1)
    return model


def main() -> None:
    """Read the arguments, train, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data/betons"), help="folder with the .beton files")
    parser.add_argument("--model", default="resnet18", help="name of a convolutional network of timm")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()

    config = fastcifar.get_recipe(
        "quick", data_dir=arguments.data_dir, epochs=arguments.epochs, batch_size=arguments.batch_size
    )
    fastcifar.apply_process_settings(config.runtime)
    torch.manual_seed(config.runtime.seed)  # `fit` seeds after the network's weights are drawn
    model = create_model(
        arguments.model, num_classes=len(read_manifest(arguments.data_dir / "train.beton").class_names)
    )
    print(f"{arguments.model}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    for result in fastcifar.fit(config, model=model):
        print(
            f"epoch {result.epoch}: train accuracy {result.train_accuracy:.2%}, "
            f"test accuracy {result.test_accuracy:.2%}, {result.train_seconds:.1f} s"
        )


if __name__ == "__main__":
    try:
        main()
    except fastcifar.FastCifarError as error:
        sys.exit(f"error: {error}")
