"""Every setting of a run, as frozen dataclasses that check themselves. The command line is derived from them.

`TrainConfig` is the flat sum of five groups, each of which is what one part of the package takes: a function that makes
an optimizer is annotated with `OptimSettings` and can be handed a whole `TrainConfig`. Change one with
`dataclasses.replace`, which checks again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from fastcifar.errors import ConfigError


def _require(allowed: bool, settings: object, field: str, expected: str) -> None:
    if not allowed:
        raise ConfigError(f"{field} is {getattr(settings, field)!r}; it must be {expected}")


def _require_choice(group: type, settings: object, field: str) -> None:
    """The field's value must be one that its type, a Literal in `group`, names."""
    choices = get_args(get_type_hints(group)[field])
    _require(getattr(settings, field) in choices, settings, field, "one of " + ", ".join(map(repr, choices)))


@dataclass(frozen=True, kw_only=True)
class _Checked:
    def __post_init__(self) -> None:
        """Check each field; the groups chain to one another through `super()`."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(_Checked):
    """Where the images come from and how they are batched."""

    betons: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    batch_size: int = 512
    """Images a step."""
    workers: int | None = None
    """Decoding threads of the loader; all the cores this process may use if not given."""
    val_fraction: float = 0.0
    """Share of the training set held out, stratified and seeded, to evaluate on in place of the test set."""
    verify: bool = True
    """Check each .beton's SHA-256 against its manifest before it is opened."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.batch_size >= 1, self, "batch_size", "at least 1")
        _require(self.workers is None or self.workers >= 1, self, "workers", "at least 1")
        _require(0 <= self.val_fraction < 1, self, "val_fraction", "from 0 up to, but not including, 1")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(_Checked):
    """The network by name, and its variants."""

    model: str = "custom_resnet"
    """Name of the network."""
    conv_bias: bool = False
    """Give each convolution a bias."""
    layer2_residual: bool = False
    """Add a residual block to layer2, as layer1 and layer3 have."""
    dropout: float = 0.0
    """Probability of dropout after every ReLU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.dropout < 1, self, "dropout", "from 0 up to, but not including, 1")


@dataclass(frozen=True, kw_only=True)
class AugmentSettings(_Checked):
    """What happens to a training batch on the device."""

    padding: int = 4
    """Pixels added on each side before the random crop."""
    padding_mode: Literal["constant", "reflect", "mean"] = "constant"
    """What the added pixels hold: zeros, the image mirrored, or the mean (zeros after normalisation)."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    cutout: int = 8
    """Side in pixels of the square that is set to the mean; 0 for none."""
    shift_scale_rotate_p: float = 0.0
    """Probability of a random shift, scale and rotation before the cutout."""
    shift_limit: float = 0.05
    """Largest shift either way, as a share of the side."""
    scale_limit: float = 0.05
    """Largest change of the scale either way."""
    rotate_limit: float = 5.0
    """Largest rotation either way, in degrees."""
    rotate_p: float = 0.0
    """Probability of another random rotation, after the cutout."""
    stock_kornia: bool = False
    """Crop and flip with Kornia's stock operations in place of the one gather (equal, slower)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.padding < 32, self, "padding", "from 0 to 31")
        _require_choice(AugmentSettings, self, "padding_mode")
        for field in ("flip_p", "shift_scale_rotate_p", "rotate_p"):
            _require(0 <= getattr(self, field) <= 1, self, field, "from 0 to 1")
        for field in ("shift_limit", "scale_limit"):
            _require(0 <= getattr(self, field) < 1, self, field, "from 0 up to, but not including, 1")
        _require(0 <= self.rotate_limit <= 180, self, "rotate_limit", "from 0 to 180 degrees")
        _require(0 <= self.cutout <= 32, self, "cutout", "from 0 to 32")


@dataclass(frozen=True, kw_only=True)
class OptimSettings(_Checked):
    """The optimizer and its one-cycle schedule."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or stochastic gradient descent with momentum."""
    max_lr: float = 5.34e-3
    """Highest rate of the one-cycle schedule (LRMAX)."""
    div_factor: float = 10.0
    """The first rate is max_lr divided by this (LRMIN)."""
    final_div_factor: float = 1.0
    """The last rate is the first one divided by this; 1 means that the rate does not fall below LRMIN."""
    pct_start: float = 5 / 24
    """Share of the steps during which the rate rises."""
    weight_decay: float = 1e-4
    """L2 penalty, as the optimizer adds it to the gradient."""
    l1: float = 0.0
    """L1 penalty: this times the sign of each weight is added to its gradient."""
    momentum: float = 0.9
    """SGD's momentum, where the rate is lowest if it cycles."""
    peak_momentum: float | None = None
    """SGD's momentum where the rate is highest; the momentum does not cycle if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.max_lr < float("inf"), self, "max_lr", "positive and finite")
        _require(0 < self.div_factor < float("inf"), self, "div_factor", "positive and finite")
        _require(0 < self.final_div_factor < float("inf"), self, "final_div_factor", "positive and finite")
        _require(0 < self.pct_start < 1, self, "pct_start", "between 0 and 1")
        _require_choice(OptimSettings, self, "optimizer")
        for field in ("weight_decay", "l1"):
            _require(0 <= getattr(self, field) < float("inf"), self, field, "0 or more")
        for field in ("momentum", "peak_momentum"):
            value = getattr(self, field)
            _require(value is None or 0 <= value < 1, self, field, "from 0 up to, but not including, 1")


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings(_Checked):
    """The machine's side: device, precision, compilation, seed."""

    device: str = "auto"
    """'cpu', 'cuda', 'cuda:1', …; 'auto' takes CUDA where there is a device and the CPU where not."""
    seed: int = 0
    """Seed of the weights, the sample order, the augmentation and the validation split."""
    amp: bool = False
    """Automatic mixed precision: bfloat16 where the device has it, float16 with loss scaling where not."""
    amp_dtype: Literal["auto", "bfloat16", "float16"] = "auto"
    """Precision under --amp, when it should not be chosen by the device."""
    compile: bool = False
    """Compile the network and the augmentation with torch.compile."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """torch.compile's mode."""
    channels_last: bool = True
    """Keep images and weights in channels-last order, the faster one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.seed < 2**63, self, "seed", "from 0 to 2**63 - 1")
        for field in ("amp_dtype", "compile_mode"):
            _require_choice(RuntimeSettings, self, field)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RuntimeSettings, OptimSettings, AugmentSettings, ModelSettings, DataSettings):
    """One training run, whole."""

    recipe: str = "era"
    """Named set of defaults that the other settings change."""
    epochs: int = 24
    """Passes over the training set; the schedule spans them all."""
    target: float | None = None
    """Stop after the first evaluation whose accuracy is at least this (0 to 1)."""
    run_dir: Path | None = None
    """Folder that the run leaves; runs/<time>-<recipe> on the command line if not given, none in Python."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.epochs >= 1, self, "epochs", "at least 1")
        _require(self.target is None or 0 < self.target <= 1, self, "target", "above 0 and at most 1, such as 0.90")

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values, paths as text."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """The configuration that `to_json` wrote.

        Raises:
            ConfigError: `values` has a setting that does not exist here, or one that is not allowed.
        """
        unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}: was this written by another version?")
        paths = {name: Path(values[name]) for name in ("betons", "run_dir") if values.get(name) is not None}
        return cls(**{**values, **paths})
