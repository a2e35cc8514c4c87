"""Use fastcifar's loader, augmentation and model in a Lightning Trainer.

python examples/lightning_trainer.py --data-dir data/betons --epochs 5
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

import fastcifar
from fastcifar.data.loader import BetonLoader
from fastcifar.data.manifest import Manifest, read_manifest

Batch = tuple[Tensor, Tensor]


class Batches:
    """A loader as an iterable with a length, which Lightning expects. Each epoch has its own order of the images."""

    def __init__(self, loader: BetonLoader, trainer: pl.Trainer) -> None:
        self.loader, self.trainer = loader, trainer

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.batches(self.trainer.current_epoch)


class Classifier(pl.LightningModule):
    """A network with its augmentation. Lightning sets both to eval mode, where the augmentation only normalises."""

    def __init__(self, data: Manifest, max_lr: float) -> None:
        super().__init__()
        self.max_lr = max_lr
        settings = fastcifar.AugmentSettings(padding=4, cutout=8)
        self.augment = fastcifar.create_augmentation(settings, mean=data.mean, std=data.std, size=data.image_shape[0])
        model = fastcifar.create_model("speed_cnn", num_classes=len(data.class_names))
        self.model = model.to(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch: uint8 images [B, 3, H, W] and int64 labels [B]."""
        images, labels = batch
        return F.cross_entropy(self.model(self.augment(images)), labels)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the accuracy of a batch; Lightning takes the mean over all images."""
        images, labels = batch
        accuracy = (self.model(self.augment(images)).argmax(dim=1) == labels).float().mean()
        self.log("test_accuracy", accuracy, batch_size=len(labels), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return Adam and a one-cycle schedule that takes a step per batch."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.max_lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.max_lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Read the arguments, train, and print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data/betons"), help="folder with the .beton files")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--max-lr", type=float, default=2e-3, help="highest learning rate of the schedule")
    parser.add_argument("--precision", default="32-true", help="a precision of Lightning, such as bf16-mixed")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_path, test_path = arguments.data_dir / "train.beton", arguments.data_dir / "test.beton"
    with (
        fastcifar.create_loader(train_path, batch_size=arguments.batch_size, train=True, device=device) as train,
        fastcifar.create_loader(test_path, batch_size=1000, train=False, device=device) as test,
    ):
        trainer = pl.Trainer(
            max_epochs=arguments.epochs,
            precision=arguments.precision,
            accelerator=device,
            devices=1,  # each process would get all images: the loader does not divide them
            logger=False,
            enable_checkpointing=False,
        )
        trainer.fit(
            Classifier(read_manifest(train_path), arguments.max_lr), Batches(train, trainer), Batches(test, trainer)
        )
    print(f"test accuracy {trainer.callback_metrics['test_accuracy']:.2%} after {arguments.epochs} epochs")


if __name__ == "__main__":
    try:
        main()
    except fastcifar.FastCifarError as error:
        sys.exit(f"error: {error}")
