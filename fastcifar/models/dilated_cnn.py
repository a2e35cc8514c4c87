"""A small network with strides and dilation instead of pooling layers and fewer than 200,000 parameters.

Source: an earlier exercise of the courses that `custom_resnet` comes from.
"""

import functools

from torch import Tensor, nn

from fastcifar.models.ops.kernels import ReLU


class ConvNormReLU(nn.Sequential):
    """3 × 3 convolution, padded for its dilation → batch norm → ReLU → (dropout)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = ReLU()
        if dropout:
            self.dropout = nn.Dropout(dropout)


class SeparableConvNormReLU(nn.Sequential):
    """Depthwise-separable convolution: one 3 × 3 filter per channel, then 1 × 1 → batch norm → ReLU → (dropout)."""

    def __init__(self, inputs: int, outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = ReLU()
        if dropout:
            self.dropout = nn.Dropout(dropout)


class DilatedCNN(nn.Module):
    """A network from images [B, 3, 32, 32] to logits [B, num_classes]: four blocks of three convolutions.

    block1 32 × 16 × 16 → block2 48 × 8 × 8 → block3 56 × 4 × 4 → block4 64 × 4 × 4 → global average pooling → linear.
    The first three blocks end with stride 2; the second has a depthwise-separable convolution, the third one with
    dilation 2. 196,586 parameters; the receptive field of block4 is 99 × 99 pixels, including padding.
    """

    def __init__(self, *, num_classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        conv = functools.partial(ConvNormReLU, dropout=dropout)
        separable = functools.partial(SeparableConvNormReLU, dropout=dropout)
        self.block1 = nn.Sequential(conv(3, 32), conv(32, 32), conv(32, 32, stride=2))
        self.block2 = nn.Sequential(conv(32, 48), separable(48, 48), conv(48, 48, stride=2))
        self.block3 = nn.Sequential(conv(48, 48), conv(48, 48, dilation=2), conv(48, 56, stride=2))
        self.block4 = nn.Sequential(conv(56, 48), conv(48, 48), conv(48, 64))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block4(self.block3(self.block2(self.block1(images)))))  # type: ignore[no-any-return]
