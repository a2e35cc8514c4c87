"""The recipes: functions whose docstrings give a line of description, the command, and its measured result."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, closest
from fastcifar.recipe_files import SUFFIX, read_recipe_file


def era() -> TrainConfig:
    """The exercise: Adam, one-cycle schedule, 24 epochs.

    Command: `fastcifar train --recipe era --amp`. Batches of 512. The learning rate peaks at the end of epoch 5; it
    falls back to its first value and not below. The exercise uses max_lr = 5.34e-3 and begins at a tenth of it, which
    is too high to converge at the end; a peak of 2e-3 and a thousandth of that converge. The LR finder suggests 1.3e-3;
    on a validation split, 1.3e-3 and 3.9e-3 are within one point of each other (benchmarks/results/max-lr-cpu.json).
    The weight decay is much higher than Adam's usual 1e-4, with which the network overfits. One run reached 93.38 %
    (benchmarks/results/era-cpu.json).
    """
    return TrainConfig().replace(max_lr=2e-3, div_factor=1000.0, weight_decay=2e-3)


def quick() -> TrainConfig:
    """The network of era for two epochs, for a CPU.

    Command: `fastcifar train --recipe quick`. It takes about a quarter of an hour on two CPU cores with bfloat16.
    Batches are smaller, which gives more steps, the augmentation is weaker, and the learning rate falls to nearly zero.
    The settings were tried once, on a validation split; one run on the test set reached 85.76 %
    (benchmarks/results/quick-cpu.json).
    """
    return (
        TrainConfig()
        .replace(epochs=2, batch_size=128, max_lr=2e-3, pct_start=0.25, final_div_factor=100.0, weight_decay=0.0)
        .replace(padding=2, padding_mode="reflect", cutout=0, amp=True)
    )


def _airbench() -> TrainConfig:
    """The settings that the speed recipes share.

    Source, except for the smaller crop: KellerJordan/cifar10-airbench (airbench94_muon). The speed recipes add
    progressive resizing from 16 to 24 to 32 pixels, and convert airbench's learning rates for biases and the last layer
    to a mean loss, scaled from its batch size of 2000 in proportion to theirs.
    """
    return (
        TrainConfig()
        .replace(optimizer="muon", max_lr=0.24, momentum=0.85, muon_momentum=0.6, weight_decay=0.0)
        .replace(pct_start=0.0, div_factor=1.0, final_div_factor=20.0)
        .replace(whiten=True, dirac=True, freeze_norm_scale=True, head_init_std=1.0)
        .replace(padding=1, padding_mode="reflect", flip_p=0.0, alternate_flip=True, cutout=0)
        .replace(tta="flip", tta_fraction=0.25, eval_batch_size=2000)
        .replace(cache_on_device=True, cuda_graphs=True, amp=True)
    )


def era_fast() -> TrainConfig:
    """The network of era to 90 % with the work of 1.05 epochs.

    Command: `fastcifar train --recipe era-fast`. The work is that of 1.05 epochs of era, in multiply-adds. The first
    stages train while images are small. The first convolution has fixed whitening filters, and its norm is frozen after
    a tenth of the steps; layer1 is frozen when images reach their full size, layer2 soon after. Five runs reached
    90.45 % on average (benchmarks/results/time-to-90-amx-cpu.json).
    """
    return (
        _airbench()
        .replace(epochs=2.7, batch_size=500, bias_lr=26.5, head_lr=335.0)
        .replace(logit_scale=1 / 512, label_smoothing=0.1, norm_momentum=0.2)
        .replace(resize_sizes=(16, 24), resize_fractions=(0.5, 0.3))
        .replace(freeze=("prep", "layer1", "layer2"), freeze_at=(0.1, 0.8, 0.85))
    )


def speedrun() -> TrainConfig:
    """The shortest time to 90 %, with a small network.

    Command: `fastcifar train --recipe speedrun`. The first group of the network is narrow. bias_lr is airbench's ×
    1.702²: activations are 1.702 × larger here, so the same relative change needs a bias step that is 1.702 × larger,
    from a gradient that is 1.702 × smaller. The first group is frozen when images reach their full size. At the end,
    the logits of the least confident images are averaged over shifted copies, too. Ten runs reached 90.26 % on average
    (benchmarks/results/time-to-90-cpu.json).
    """
    return (
        _airbench()
        .replace(model="speed_cnn", widths=(32, 192, 256))
        .replace(epochs=4.2, batch_size=1000, bias_lr=154.0, head_lr=670.0)
        .replace(logit_scale=1 / 600, label_smoothing=0.2, norm_momentum=0.3)
        .replace(resize_sizes=(16, 24), resize_fractions=(0.4, 0.35))
        .replace(freeze=("whiten", "group1"), freeze_at=(0.2, 0.75), tta="flip-shift")
    )


def speedrun_94() -> TrainConfig:
    """The shortest time to 94 %, with a small network.

    Command: `fastcifar train --recipe speedrun-94`. The recipe of speedrun for more epochs, with wider groups, of which
    the first trains to the end, crops from 2 pixels of padding, full-size images for half of the steps, and a learning
    rate that falls to nearly zero. Three runs reached 94.18 % on average (benchmarks/results/time-to-94-cpu.json).
    """
    return (
        speedrun()
        .replace(widths=(64, 256, 384), epochs=11.0, padding=2, norm_momentum=0.2, final_div_factor=1000.0)
        .replace(resize_fractions=(0.2, 0.3), freeze=("whiten",), freeze_at=(0.2,), tta_fraction=0.5)
    )


def era_plus() -> TrainConfig:
    """The network and the epochs of era, for the highest accuracy.

    Command: `fastcifar train --recipe era-plus`. Muon, batches of 1000, fixed whitening filters, small images for half
    of the steps, label smoothing, crop and 8 × 8 cutout, every other epoch flipped, and predictions averaged over
    shifted and flipped copies of the less confident half of the images. One run reached 95.11 %
    (benchmarks/results/era-plus-cpu.json).
    """
    return (
        era_fast()
        .replace(epochs=24.0, batch_size=1000, bias_lr=53.0, head_lr=670.0, final_div_factor=1000.0)
        .replace(padding=4, cutout=8, label_smoothing=0.2, resize_fractions=(0.2, 0.3))
        .replace(freeze=(), freeze_at=(), freeze_norm_scale=False, tta="flip-shift", tta_fraction=0.5)
    )


def speedrun_95() -> TrainConfig:
    """The shortest time to 95 %, with a wider network.

    Command: `fastcifar train --recipe speedrun-95`. The recipe of speedrun-94 for more epochs, with the widths of
    airbench95, and with the crop and cutout of era-plus, without which it overfits. Three runs reached
    95.10 % on average (benchmarks/results/time-to-95-cpu.json).
    """
    return speedrun_94().replace(widths=(128, 384, 384), epochs=25.0, padding=4, cutout=8)


def speedrun_96() -> TrainConfig:
    """The shortest time to 96 %, with a deeper network.

    Command: `fastcifar train --recipe speedrun-96`. The recipe of speedrun-95 for more epochs, with the widths and the
    third, residual convolution of airbench96, and its 12 × 12 cutout. One run reached 96.05 %
    (benchmarks/results/time-to-96-cpu.json).
    """
    return speedrun_95().replace(widths=(128, 384, 512), depth=3, epochs=50.0, cutout=12)


def course_a() -> TrainConfig:
    """Course solution A: convolution biases, three residual blocks.

    Command: `fastcifar train --recipe course-a --amp`. Crop, flip and 8 × 8 cutout; Adam. Its page: 7,756,554
    parameters, 91.99 % at best, first 90 % at epoch 17. It names no learning rate; this recipe uses that of solution B.
    Two epochs on two CPU cores reached 73.62 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig().replace(conv_bias=True, layer2_residual=True)


def course_b() -> TrainConfig:
    """Course solution B: the exercise with its own learning rates.

    Command: `fastcifar train --recipe course-b --amp`. Crop, flip and 8 × 8 cutout; Adam, max_lr 5.34e-3. Its page:
    91.51 % at best. Two epochs on two CPU cores reached 76.72 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig()


def course_c() -> TrainConfig:
    """Course solution C: stronger augmentation, a steeper cycle.

    Command: `fastcifar train --recipe course-c --amp`. Normalise; crop after padding; shift, scale and rotate (0.05,
    0.05, ±5°, p 0.5); flip (p 0.3); one 16 × 16 cutout; rotate (±5°, p 0.5). Adam, weight decay 1e-4, max_lr 4.59e-2,
    div_factor and final_div_factor 100, linear. Its page: 88.22 % at best. It does not say how rotated images are
    padded; this recipe mirrors them. Two epochs on two CPU cores reached 43.54 % here
    (benchmarks/results/course-cpu.json).
    """
    return (
        TrainConfig()
        .replace(padding_mode="mean", flip_p=0.3, cutout=16, shift_scale_rotate_p=0.5, rotate_p=0.5)
        .replace(max_lr=4.59e-2, div_factor=100.0, final_div_factor=100.0)
    )


def course_d() -> TrainConfig:
    """Course solution D: dropout after every ReLU.

    Command: `fastcifar train --recipe course-d --amp`. Flip; shift, scale and rotate; one 16 × 16 cutout. Its page:
    379.27 M multiply-adds, target 90 %. It names neither the dropout probability, nor the limits of the geometric
    operations, nor the learning rate; this recipe uses 0.1, those of solution C and that of solution B. Two epochs on
    two CPU cores reached 70.23 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig().replace(dropout=0.1, padding=0, cutout=16, shift_scale_rotate_p=0.5)


def course_e() -> TrainConfig:
    """Course solution E: SGD with a cycling momentum.

    Command: `fastcifar train --recipe course-e --amp`, with `--max-lr 3.5e-2 --cutout 16` for its second variant. The
    momentum is lowest where the learning rate is highest. Crop, flip and cutout; max_lr 2.3e-2 or 3.5e-2. Its page:
    88.9, 88.94 and 89.17 % at best, with overfitting, which `--l1`, `--weight-decay` and `--dropout` can reduce. It
    names no momentum; 0.85 and 0.95 are torch's defaults. Two epochs on two CPU cores with the first of these learning
    rates reached 54.88 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig().replace(optimizer="sgd", max_lr=2.3e-2, momentum=0.95, peak_momentum=0.85, weight_decay=0.0)


def dilated_cnn() -> TrainConfig:
    """The exercise before era: dilation, under 200,000 parameters.

    Command: `fastcifar train --recipe dilated-cnn --amp`. Strides and dilation instead of pooling; solution D's
    augmentation. The target is 85 %; one run reached 85.64 % (benchmarks/results/dilated-cnn-cpu.json).
    """
    augmented = TrainConfig().replace(padding=0, cutout=16, shift_scale_rotate_p=0.5)
    return augmented.replace(model="dilated_cnn", batch_size=128, final_div_factor=100.0)


_FUNCTIONS = (
    *(era, era_plus, era_fast, speedrun, speedrun_94, speedrun_95, speedrun_96, quick),
    *(course_a, course_b, course_c, course_d, course_e, dilated_cnn),
)
RECIPES: dict[str, Callable[[], TrainConfig]] = {
    function.__name__.replace("_", "-"): function for function in _FUNCTIONS
}
DEFAULT_RECIPE = "era"


def get_recipe(name: str, **changes: Any) -> TrainConfig:
    """Return a recipe's configuration with changes to its settings, by name, such as `get_recipe("era", epochs=2)`.

    A name that ends in .toml is the path of a recipe file (`fastcifar.recipe_files`).

    Raises:
        ConfigError: there is no recipe of that name, no such setting, or a value that is not allowed.
    """
    if name.endswith(SUFFIX):
        path = Path(os.path.expanduser(name))
        return read_recipe_file(path, get_recipe).replace(**changes).derived_from(path.name)
    if name not in RECIPES:
        known = f"{', '.join(RECIPES)}, or a file, NAME{SUFFIX}"
        raise ConfigError(f"recipe is {name!r}; it must be one of {known}: did you mean {closest(name, RECIPES)}?")
    return RECIPES[name]().replace(**changes).derived_from(name)


def describe_recipe(name: str) -> str:
    """Return the first line of a recipe's docstring, without its full stop."""
    return (RECIPES[name].__doc__ or "").splitlines()[0].removesuffix(".")
