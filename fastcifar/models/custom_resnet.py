"""The network of the exercise: a ResNet with three stages and residual blocks in the first and the last.

Source: David Page's DAWNBench entry (davidcpage/cifar10-fast), in the variant that "90 % in 24 epochs" courses use.
"""

from torch import Tensor, nn

from fastcifar.models.ops.conv3x3 import Conv3x3
from fastcifar.models.ops.kernels import MaxPool2x2, ReLU
from fastcifar.models.ops.pooling import GlobalMaxPool


class ConvBlock(nn.Sequential):
    """3 × 3 convolution → (2 × 2 max pooling) → batch norm → ReLU → (dropout)."""

    def __init__(
        self, inputs: int, outputs: int, *, pool: bool = False, bias: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.conv = Conv3x3(inputs, outputs, bias=bias)
        if pool:
            self.pool = MaxPool2x2()
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = ReLU()
        if dropout:
            self.dropout = nn.Dropout(dropout)


class Residual(nn.Module):
    """x + branch(x), where the branch has two blocks of the same width."""

    def __init__(self, width: int, *, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(*(ConvBlock(width, width, bias=bias, dropout=dropout) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)  # type: ignore[no-any-return]


class CustomResNet(nn.Module):
    """A network from images [B, 3, 32, 32] to logits [B, num_classes].

    prep 64 × 32 × 32 → layer1 128 × 16 × 16 → layer2 256 × 8 × 8 → layer3 512 × 4 × 4 → head: global max pooling,
    linear. 6,573,130 parameters and 379.27 M multiply-adds per image; with `conv_bias` and `layer2_residual`, 7,756,554
    parameters. Images may have other sizes.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        conv_bias: bool = False,
        layer2_residual: bool = False,
        dropout: float = 0.0,
        logit_scale: float = 1.0,
    ) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int, residual: bool) -> nn.Sequential:
            down = ConvBlock(inputs, outputs, pool=True, bias=conv_bias, dropout=dropout)
            return nn.Sequential(down, *([Residual(outputs, bias=conv_bias, dropout=dropout)] if residual else []))

        self.prep = ConvBlock(3, 64, bias=conv_bias, dropout=dropout)
        self.layer1 = stage(64, 128, True)
        self.layer2 = stage(128, 256, layer2_residual)
        self.layer3 = stage(256, 512, True)
        self.head = nn.Sequential(GlobalMaxPool(), nn.Flatten(), nn.Linear(512, num_classes))
        self.logit_scale = logit_scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer3(self.layer2(self.layer1(self.prep(images)))))
        return logits if self.logit_scale == 1 else logits * self.logit_scale
