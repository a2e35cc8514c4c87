"""Every setting of a run, as frozen dataclasses that check themselves. The command line is derived from them.

`TrainConfig` is the flat sum of seven groups, each of which is what one part of the package takes: a function that
makes an optimizer is annotated with `OptimSettings` and can be handed a whole `TrainConfig`. Change one with
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


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


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
    eval_batch_size: int | None = None
    """Images a batch when the network is measured; batch_size if not given."""
    workers: int | None = None
    """Decoding threads of the loader; all the cores this process may use if not given."""
    resident: bool = False
    """Keep the decoded images on the device after the first epoch, and gather each batch there."""
    val_fraction: float = 0.0
    """Share of the training set held out, stratified and seeded, to evaluate on in place of the test set."""
    verify: bool = True
    """Check each .beton's SHA-256 against its manifest before it is opened."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.batch_size >= 1, self, "batch_size", "at least 1")
        _require(self.eval_batch_size is None or self.eval_batch_size >= 1, self, "eval_batch_size", "at least 1")
        _require(self.workers is None or self.workers >= 1, self, "workers", "at least 1")
        _require(0 <= self.val_fraction < 1, self, "val_fraction", "from 0 up to, but not including, 1")

    @property
    def test_batch_size(self) -> int:
        """Images a batch when the network is measured."""
        return self.eval_batch_size or self.batch_size


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
    logit_scale: float = 1.0
    """What the last layer's output is multiplied by."""
    widths: tuple[int, ...] = ()
    """Channels of each of the network's groups, where they can be chosen; its own if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(all(width >= 1 for width in self.widths), self, "widths", "at least 1 each")
        _require(0 <= self.dropout < 1, self, "dropout", "from 0 up to, but not including, 1")
        _require(0 < self.logit_scale < float("inf"), self, "logit_scale", "positive and finite")


@dataclass(frozen=True, kw_only=True)
class InitSettings(_Checked):
    """What the network starts from, and which of its parts train."""

    whiten: bool = False
    """Make the first convolution whiten the training images' patches, and keep its filters so."""
    dirac: bool = False
    """Start the other 3 × 3 convolutions as the identity, as far as their channels go."""
    freeze_norm_scale: bool = False
    """Keep the batch norms' scales where they start and train their biases only."""
    norm_momentum: float = 0.1
    """Weight of each batch in the batch norms' running statistics."""
    head_std: float | None = None
    """Standard deviation of the last layer's weights at the start; torch's own if not given."""
    freeze: tuple[str, ...] = ()
    """Parts of the network, by name, that stop training before the end. While the first ones are frozen, a step passes
    no gradient back to them."""
    freeze_after: tuple[float, ...] = ()
    """Share of the steps after which each of them stops; its rate goes through the whole schedule until then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        after = self.freeze_after
        _require(len(after) == len(self.freeze), self, "freeze_after", "as many as freeze")
        _require(all(0 <= share <= 1 for share in after), self, "freeze_after", "from 0 to 1 each")
        _require(self.head_std is None or 0 < self.head_std < float("inf"), self, "head_std", "positive and finite")
        _require(0 < self.norm_momentum <= 1, self, "norm_momentum", "above 0 and at most 1")


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

    optimizer: Literal["adam", "sgd", "muon"] = "adam"
    """Adam, stochastic gradient descent with momentum, or Muon for the convolutions with Nesterov SGD for the rest."""
    max_lr: float = 5.34e-3
    """Highest rate of the one-cycle schedule (LRMAX)."""
    bias_lr: float = 50.0
    """Under Muon, SGD's highest rate for biases and norms."""
    head_lr: float = 500.0
    """Under Muon, SGD's highest rate for the last layer."""
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
    muon_momentum: float = 0.6
    """Muon's own momentum."""
    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over the classes."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is not finite: stop before the weights take it, or skip the step."""
    max_skipped: int = 10
    """Steps that may be skipped before the run stops after all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("max_lr", "bias_lr", "head_lr"):
            _require(0 < getattr(self, field) < float("inf"), self, field, "positive and finite")
        _require(0 < self.div_factor < float("inf"), self, "div_factor", "positive and finite")
        _require(0 < self.final_div_factor < float("inf"), self, "final_div_factor", "positive and finite")
        _require(0 <= self.pct_start < 1, self, "pct_start", "from 0 up to, but not including, 1")
        for field in ("optimizer", "on_nonfinite"):
            _require_choice(OptimSettings, self, field)
        _require(self.max_skipped >= 1, self, "max_skipped", "at least 1")
        for field in ("weight_decay", "l1"):
            _require(0 <= getattr(self, field) < float("inf"), self, field, "0 or more")
        for field in ("momentum", "peak_momentum", "muon_momentum", "label_smoothing"):
            value = getattr(self, field)
            _require(value is None or 0 <= value < 1, self, field, "from 0 up to, but not including, 1")


@dataclass(frozen=True, kw_only=True)
class ViewSettings(_Checked):
    """How the network sees the images that it trains on over the run, and how those it is measured on."""

    small_sizes: tuple[int, ...] = ()
    """Sides in pixels to which the augmented images are shrunk, one after the other, before they are left whole."""
    small_shares: tuple[float, ...] = ()
    """Share of the steps that see each of them."""
    alternate_flip: bool = False
    """Mirror each image in every other epoch, half of them in the first, in place of flip_p's chance."""
    tta: Literal["none", "flip", "flip-shift"] = "none"
    """Test-time augmentation of the last evaluation: average the logits with those of the mirrored image, or of its
    shifts by a pixel, too."""
    tta_share: float = 1.0
    """Share of the images, the least confident ones, that are looked at more than once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(all(size >= 8 for size in self.small_sizes), self, "small_sizes", "at least 8 each")
        shares = self.small_shares
        _require(len(shares) == len(self.small_sizes), self, "small_shares", "as many as small_sizes")
        _require(
            all(share >= 0 for share in shares) and sum(shares) <= 1, self, "small_shares", "0 or more, 1 together"
        )
        _require_choice(ViewSettings, self, "tta")
        _require(0 <= self.tta_share <= 1, self, "tta_share", "from 0 to 1")


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
    cuda_graphs: bool = False
    """On CUDA, record a training step and an evaluated batch once, before the clock, and replay each as one launch,
    compiled or not; not with float16's loss scaling. No effect on the CPU."""
    channels_last: bool = True
    """Keep images and weights in channels-last order, the faster one."""
    deterministic: bool = False
    """On CUDA, take only algorithms that give equal weights for equal seeds, which are slower: no search for the
    fastest convolution, no atomic sums. The CPU's are so anyway."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.seed < 2**63, self, "seed", "from 0 to 2**63 - 1")
        for field in ("amp_dtype", "compile_mode"):
            _require_choice(RuntimeSettings, self, field)
        _require(
            not (self.cuda_graphs and self.compile and self.compile_mode in ("reduce-overhead", "max-autotune")),
            self,
            "compile_mode",
            "one without CUDA graphs of its own, such as 'max-autotune-no-cudagraphs', with cuda_graphs",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    RuntimeSettings, OptimSettings, ViewSettings, AugmentSettings, InitSettings, ModelSettings, DataSettings
):
    """One training run, whole."""

    recipe: str = "era"
    """Named set of defaults that the other settings change."""
    epochs: float = 24
    """Passes over the training set, the last of which may be a part of one; the schedule spans them all."""
    target: float | None = None
    """Stop after the first evaluation whose accuracy is at least this (0 to 1)."""
    checkpoint_every: int | None = None
    """Steps after which a checkpoint is kept inside an epoch; only at each epoch's end if not given."""
    run_dir: Path | None = None
    """Folder that the run leaves; runs/<time>-<recipe> on the command line if not given, none in Python."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.epochs < float("inf"), self, "epochs", "above 0 and finite")
        _require(
            not self.alternate_flip or self.flip_p == 0, self, "flip_p", "0 if images are mirrored in alternate epochs"
        )
        _require(
            not self.cuda_graphs or self.peak_momentum is None,
            self,
            "cuda_graphs",
            "off where the momentum cycles (peak_momentum), which a recorded step would not follow",
        )
        _require(self.checkpoint_every is None or self.checkpoint_every >= 1, self, "checkpoint_every", "at least 1")
        _require(self.target is None or 0 < self.target <= 1, self, "target", "above 0 and at most 1, such as 0.90")

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values, paths as text, tuples as lists."""
        values = dataclasses.asdict(self)
        return {name: _plain(value) for name, value in values.items()}

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
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **paths, **lists})
