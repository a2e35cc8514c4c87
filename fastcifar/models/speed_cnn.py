"""A small network for fast training: a whitening convolution and three groups of two or three convolutions.

Source: KellerJordan/cifar10-airbench (airbench94; airbench96 for the depth of 3), which is based on
tysam-code/hlb-CIFAR10. Here the last pooling is global, so that the network also takes smaller images.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from fastcifar.models.ops.conv3x3 import Conv3x3
from fastcifar.models.ops.kernels import MaxPool2x2
from fastcifar.models.ops.pooling import GlobalMaxPool

GELU_SCALE = 1.702
"""QuickGELU, x · σ(1.702 x), differs from GELU by at most 0.02. SiLU(1.702 x) = 1.702 · QuickGELU(x), and SiLU takes a
third of GELU's time on a CPU. So we scale the input of each activation by 1.702; the next batch norm removes the
factor. Source: Hendrycks and Gimpel, *Gaussian Error Linear Units*, 2016."""


class ScaledNorm(nn.BatchNorm2d):
    """A batch norm whose scale starts at `GELU_SCALE`."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.weight, GELU_SCALE)


class ConvGroup(nn.Module):
    """Convolution → 2 × 2 max pooling → batch norm → activation → convolution → batch norm → activation.

    With a depth of 3, a third convolution and batch norm follow, and the output of the first activation is added before
    the last one.
    """

    def __init__(self, inputs: int, outputs: int, depth: int = 2) -> None:
        super().__init__()
        self.conv1 = Conv3x3(inputs, outputs)
        self.pool = MaxPool2x2()
        self.norm1 = ScaledNorm(outputs)
        self.activation1 = nn.SiLU()
        self.conv2 = Conv3x3(outputs, outputs)
        self.norm2 = ScaledNorm(outputs)
        self.activation2 = nn.SiLU()
        self.depth = depth
        if depth == 3:
            self.conv3 = Conv3x3(outputs, outputs)
            self.norm3 = ScaledNorm(outputs)
            self.activation3 = nn.SiLU()

    def forward(self, images: Tensor) -> Tensor:
        first: Tensor = self.activation1(self.norm1(self.pool(self.conv1(images))))
        second: Tensor = self.activation2(self.norm2(self.conv2(first)))
        if self.depth == 2:
            return second
        third: Tensor = self.activation3(first + self.norm3(self.conv3(second)))
        return third


class SpeedCNN(nn.Module):
    """A network from images [B, 3, H, W] to logits [B, num_classes].

    whiten 24 × 31 × 31 → group1 64 × 15 × 15 → group2 256 × 7 × 7 → group3 256 × 3 × 3 → head: global max pooling,
    linear. 1,972,792 parameters and 118.15 M multiply-adds per 32 × 32 image, with the default widths and depth.

    Raises:
        ValueError: `widths` does not have three values, or `depth` is neither 2 nor 3.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        logit_scale: float = 1.0,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 2,
    ) -> None:
        super().__init__()
        if len(widths) != 3:
            raise ValueError(f"widths is {list(widths)}; it must be three values, one per group")
        if depth not in (2, 3):
            raise ValueError(f"depth is {depth}; it must be 2 or 3")
        first, second, third = widths
        self.whiten = nn.Conv2d(3, 24, kernel_size=2)
        self.activation = nn.SiLU()
        self.group1 = ConvGroup(24, first, depth)
        self.group2 = ConvGroup(first, second, depth)
        self.group3 = ConvGroup(second, third, depth)
        self.head = nn.Sequential(GlobalMaxPool(), nn.Flatten(), nn.Linear(third, num_classes, bias=False))
        self.logit_scale = logit_scale

    def forward(self, images: Tensor) -> Tensor:
        features = self.activation(self.whiten(GELU_SCALE * images))
        logits: Tensor = self.head(self.group3(self.group2(self.group1(features))))
        return logits if self.logit_scale == 1 else logits * self.logit_scale
