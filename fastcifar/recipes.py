"""Named recipes: each a function whose docstring tells the command and the result it gives."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError


def era() -> TrainConfig:
    """The 24 epochs of the exercise: batch 512, Adam, one-cycle with its peak at the end of epoch 5.

        fastcifar train --recipe era --amp

    The rate falls back to a tenth of its peak and not below. The exercise's own peak of 5.34e-3 ends, at 5.34e-4, above
    the rate at which the weights settle; 2e-3 lets them, and lies between the range test's 1.3e-3 and three times that,
    whose means are within a point of each other on a validation split (benchmarks/results/max-lr-cpu.json). One run
    gave 92.64 % (benchmarks/results/era-cpu.json).
    """
    return TrainConfig(recipe="era", max_lr=2e-3)


def quick() -> TrainConfig:
    """The same network in the two epochs that a quarter of an hour on two CPU cores allows, in bfloat16.

        fastcifar train --recipe quick

    Small batches give it more steps, a weaker augmentation less to learn, and the rate falls to nearly nothing. Its
    settings were tried once, on a validation split; one run on the test set gave 85.76 %
    (benchmarks/results/quick-cpu.json).
    """
    return TrainConfig(
        recipe="quick",
        epochs=2,
        batch_size=128,
        max_lr=2e-3,
        pct_start=0.25,
        final_div_factor=100.0,
        weight_decay=0.0,
        padding=2,
        padding_mode="reflect",
        cutout=0,
        amp=True,
    )


_AIRBENCH: dict[str, Any] = {
    "optimizer": "muon",
    "max_lr": 0.24,
    "momentum": 0.85,
    "muon_momentum": 0.6,
    "weight_decay": 0.0,
    "pct_start": 0.0,
    "div_factor": 1.0,
    "final_div_factor": 20.0,
    "whiten": True,
    "dirac": True,
    "freeze_norm_scale": True,
    "head_std": 1.0,
    "padding": 1,
    "padding_mode": "reflect",
    "flip_p": 0.0,
    "alternate_flip": True,
    "cutout": 0,
    "small_sizes": (16, 24),
    "tta": "flip",
    "tta_share": 0.25,
    "eval_batch_size": 2000,
    "resident": True,
    "cuda_graphs": True,
    "amp": True,
}
"""What both speed recipes start from: images that grow from 16 to 24 to 32 pixels, less cropping for fewer epochs.

Source of the rest: KellerJordan/cifar10-airbench (airbench94_muon), in the mean loss's terms, its rates for the biases
and the last layer, made for batches of 2000, in proportion to the batch.
"""


def era_fast() -> TrainConfig:
    """The network of `era` for the multiply-adds of 1.05 of its epochs.

        fastcifar train --recipe era-fast

    The first stages learn while images are small: the first convolution, a fixed whitening, has its norm settled after
    a tenth of the steps; the first residual stage when the images get whole, the second stage soon after. Five runs
    gave 90.45 % (benchmarks/results/time-to-90-amx-cpu.json).
    """
    return TrainConfig(
        recipe="era-fast",
        **_AIRBENCH,
        epochs=2.7,
        batch_size=500,
        bias_lr=26.5,
        head_lr=335.0,
        logit_scale=1 / 512,
        label_smoothing=0.1,
        norm_momentum=0.2,
        small_shares=(0.5, 0.3),
        freeze=("prep", "layer1", "layer2"),
        freeze_after=(0.1, 0.8, 0.85),
    )


def speedrun() -> TrainConfig:
    """The shortest time to 90 % with any network: a small one, with a narrow first group.

        fastcifar train --recipe speedrun

    The biases' rate is airbench's times 1.702²: what they are added to is 1.702 times as large, and their gradient that
    much smaller. Its first group learns while images are small, too. Ten runs gave 90.17 %
    (benchmarks/results/time-to-90-amx-cpu.json).
    """
    return TrainConfig(
        recipe="speedrun",
        **_AIRBENCH,
        model="speed_cnn",
        widths=(32, 192, 256),
        epochs=4.2,
        batch_size=1000,
        bias_lr=154.0,
        head_lr=670.0,
        logit_scale=1 / 600,
        label_smoothing=0.2,
        norm_momentum=0.3,
        small_shares=(0.4, 0.35),
        freeze=("whiten", "group1"),
        freeze_after=(0.2, 0.75),
    )


def course_a() -> TrainConfig:
    """Course solution A: the biased variant with a residual block in each stage.

        fastcifar train --recipe course-a --amp

    Crop, flip and 8 × 8 cutout; Adam. Its page: 7,756,554 parameters, 91.99 % at best, first 90 % at epoch 17. It names
    no rate; this takes the one of solution B.

    Two epochs on two CPU cores gave 73.62 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig(recipe="course-a", conv_bias=True, layer2_residual=True)


def course_b() -> TrainConfig:
    """Course solution B: the plain network at the rate that its range test found.

        fastcifar train --recipe course-b --amp

    Crop, flip and 8 × 8 cutout; Adam, max_lr 5.34e-3. Its page: 91.51 % at best.

    Two epochs on two CPU cores gave 76.72 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig(recipe="course-b")


def course_c() -> TrainConfig:
    """Course solution C: more geometry, a larger hole and a steep cycle.

        fastcifar train --recipe course-c --amp

    Normalise; crop after padding; shift, scale and rotate (0.05, 0.05, ±5°, p 0.5); flip (p 0.3); one 16 × 16 hole;
    rotate (±5°, p 0.5). Adam, weight decay 1e-4, max_lr 4.59e-2, div_factor and final_div_factor 100, linear. Its page:
    88.22 % at best. It names no border for the rotations; this mirrors.

    Two epochs on two CPU cores gave 43.54 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig(
        recipe="course-c",
        padding_mode="mean",
        flip_p=0.3,
        cutout=16,
        shift_scale_rotate_p=0.5,
        rotate_p=0.5,
        max_lr=4.59e-2,
        div_factor=100.0,
        final_div_factor=100.0,
    )


def course_d() -> TrainConfig:
    """Course solution D: the plain network with dropout after every ReLU.

        fastcifar train --recipe course-d --amp

    Flip; shift, scale and rotate; one 16 × 16 hole. Its page: 379.27 M multiply-adds, target 90 %. It names neither the
    dropout's probability, nor the limits of the geometry, nor the rate; this takes 0.1, those of solution C and that of
    solution B.

    Two epochs on two CPU cores gave 70.23 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig(recipe="course-d", dropout=0.1, padding=0, cutout=16, shift_scale_rotate_p=0.5)


def course_e() -> TrainConfig:
    """Course solution E: SGD, its momentum cycling against the rate.

        fastcifar train --recipe course-e --amp
        fastcifar train --recipe course-e --amp --max-lr 3.5e-2 --cutout 16

    Crop, flip and cutout; max_lr 2.3e-2 or 3.5e-2. Its page: 88.9, 88.94 and 89.17 % at best, with an over-fitting that
    `--l1`, `--weight-decay` and `--dropout` are there to tame. It names no momenta; these are torch's defaults.

    Two epochs on two CPU cores at the first of these rates gave 54.88 % here (benchmarks/results/course-cpu.json).
    """
    return TrainConfig(
        recipe="course-e", optimizer="sgd", max_lr=2.3e-2, momentum=0.95, peak_momentum=0.85, weight_decay=0.0
    )


def dilated_cnn() -> TrainConfig:
    """The exercise before: under 200,000 parameters, strides and dilation in place of pooling.

        fastcifar train --recipe dilated-cnn --amp

    Solution D's augmentation. The target is 85 %; one run gave 85.64 % (benchmarks/results/dilated-cnn-cpu.json).
    """
    return TrainConfig(
        recipe="dilated-cnn",
        model="dilated_cnn",
        batch_size=128,
        padding=0,
        cutout=16,
        shift_scale_rotate_p=0.5,
        final_div_factor=100.0,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "era": era,
    "era-fast": era_fast,
    "speedrun": speedrun,
    "quick": quick,
    "course-a": course_a,
    "course-b": course_b,
    "course-c": course_c,
    "course-d": course_d,
    "course-e": course_e,
    "dilated-cnn": dilated_cnn,
}


def get_recipe(name: str, **changes: Any) -> TrainConfig:
    """A recipe's configuration, with changes to its settings.

    Raises:
        ConfigError: there is no recipe of that name, no such setting, or a value that is not allowed.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0)[0]
        raise ConfigError(f"recipe is {name!r}; there is {', '.join(RECIPES)}: did you mean {near}?")
    return TrainConfig.from_json({**RECIPES[name]().to_json(), **changes})
