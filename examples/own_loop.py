"""Train a network in a loop of your own, with fastcifar's loader, augmentation and model.

python examples/own_loop.py --data-dir data/betons --epochs 5 --amp
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

import fastcifar
from fastcifar.data.manifest import read_manifest


def train(data_dir: Path, epochs: int, batch_size: int, max_lr: float, amp: bool) -> None:
    """Train with Adam and a one-cycle schedule, and print the test accuracy after each epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = read_manifest(data_dir / "train.beton")
    settings = fastcifar.AugmentSettings(padding=4, cutout=8)
    augment = fastcifar.create_augmentation(settings, mean=data.mean, std=data.std, size=data.image_shape[0]).to(device)
    model = (
        fastcifar.create_model("speed_cnn", num_classes=len(data.class_names))
        .to(device)
        .to(memory_format=torch.channels_last)
    )
    with (
        fastcifar.create_loader(data_dir / "train.beton", batch_size=batch_size, train=True, device=device) as train,
        fastcifar.create_loader(data_dir / "test.beton", batch_size=1000, train=False, device=device) as test,
    ):
        optimizer = torch.optim.Adam(model.parameters(), lr=max_lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, total_steps=epochs * len(train))
        for epoch in range(epochs):
            model.train()
            augment.train()
            for images, labels in train.batches(epoch):  # uint8 [B, 3, 32, 32] and int64 [B], on the device
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
                    loss = F.cross_entropy(model(augment(images)), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            model.eval()
            augment.eval()  # only normalises
            with torch.no_grad():
                correct = sum((model(augment(images)).argmax(1) == labels).sum() for images, labels in test.batches())
            print(f"epoch {epoch + 1}: loss {loss:.3f}, test accuracy {correct / test.samples:.2%}", flush=True)


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data/betons"), help="folder with the .beton files")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--max-lr", type=float, default=2e-3, help="highest learning rate of the schedule")
    parser.add_argument("--amp", action="store_true", help="compute in bfloat16: faster on a device that supports it")
    arguments = parser.parse_args()
    train(arguments.data_dir, arguments.epochs, arguments.batch_size, arguments.max_lr, arguments.amp)


if __name__ == "__main__":
    try:
        main()
    except fastcifar.FastCifarError as error:
        sys.exit(f"error: {error}")
