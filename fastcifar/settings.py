"""The groups of settings, one per part of the package: frozen dataclasses that check themselves.

A field's docstring is the help text of its flag. `fastcifar.config.TrainConfig` holds all groups of a run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastcifar.checks import ABOVE_0_TO_1, AT_LEAST_1, BELOW_1, FRACTION, NOT_NEGATIVE, POSITIVE, SUBSET, check, each
from fastcifar.pixels import MIN_SIZE

LoaderKind = Literal["auto", "ffcv", "memmap"]
"""What decodes .beton files: FFCV, a memory map, or FFCV where it is installed."""
SamplerKind = Literal["shuffle", "balanced"]
"""How the images of a training epoch are drawn: each once, or each class equally often."""
LogName = Literal["tensorboard", "mlflow", "wandb"]
"""The programs that a run can be logged to: TensorBoard, MLflow, Weights & Biases."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Data and batches."""

    data_dir: Path = Path("data/betons")
    """Folder with train.beton and test.beton. --betons is the same."""
    batch_size: int = 512
    """Images per training step."""
    eval_batch_size: int | None = None
    """Images per batch in evaluation; batch_size if not given."""
    loader: LoaderKind = "auto"
    """What decodes the .beton files: 'ffcv', 'memmap' (the same batches, by a memory map), or 'auto', which is FFCV if
    it is installed."""
    workers: int | None = None
    """Decoding threads of the loader; all cores that this process may use if not given."""
    cache_on_device: bool = False
    """Keep the decoded images on the device after the first epoch, and gather each batch there."""
    val_fraction: float = 0.0
    """Fraction of the training set to hold out (stratified, seeded) and evaluate on instead of the test set."""
    subset: float | None = None
    """Train on a part of the training images only, the same part of each class, chosen by the seed: a fraction below 1,
    or a number of images. The images to evaluate on stay the same."""
    sampler: SamplerKind = "shuffle"
    """Images of a training epoch: each once, in random order (shuffle), or each class equally often (balanced), so that
    images of rare classes are drawn several times, and some of common classes not at all."""
    verify: bool = True
    """Check the SHA-256 of each .beton against its manifest before the file is opened."""

    def __post_init__(self) -> None:
        check(
            self, batch_size=AT_LEAST_1, eval_batch_size=AT_LEAST_1, workers=AT_LEAST_1, val_fraction=BELOW_1,
            subset=SUBSET,
        )  # fmt: skip

    @property
    def test_batch_size(self) -> int:
        """Images per batch in evaluation."""
        return self.eval_batch_size or self.batch_size


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Model."""

    model: str = "custom_resnet"
    """Name of the network: custom_resnet, dilated_cnn or speed_cnn."""
    conv_bias: bool = False
    """Give each convolution a bias."""
    layer2_residual: bool = False
    """Add a residual block to layer2, like those of layer1 and layer3."""
    dropout: float = 0.0
    """Probability of dropout after every ReLU."""
    logit_scale: float = 1.0
    """Factor on the last layer's output."""
    widths: tuple[int, ...] = ()
    """Channels of each group of the network, for networks with variable widths; the network's defaults if empty."""
    depth: int = 2
    """Convolutions in each group of speed_cnn: 2, or 3 with a residual connection."""

    def __post_init__(self) -> None:
        check(self, widths=each(AT_LEAST_1), dropout=BELOW_1, logit_scale=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class InitSettings:
    """Initialisation."""

    whiten: bool = False
    """Make the first convolution whiten the patches of the training images, and keep its filters fixed."""
    dirac: bool = False
    """Initialise the other 3 × 3 convolutions as the identity, for as many channels as they have inputs."""
    freeze_norm_scale: bool = False
    """Keep the scales of the batch norms at their initial values and train only their biases."""
    norm_momentum: float = 0.1
    """Weight of each batch in the running statistics of the batch norms."""
    head_init_std: float | None = None
    """Standard deviation of the last layer's initial weights; torch's default if not given."""

    def __post_init__(self) -> None:
        check(self, head_init_std=POSITIVE, norm_momentum=ABOVE_0_TO_1)


@dataclass(frozen=True, kw_only=True)
class FreezeSettings:
    """Freezing of layers during training."""

    freeze: tuple[str, ...] = ()
    """Modules of the network, by name, that stop training before the end. While the first modules are frozen, no
    gradient is computed for them."""
    freeze_at: tuple[float, ...] = ()
    """Fraction of the steps after which each of these modules is frozen; its learning rate goes through the whole
    schedule until then."""

    def __post_init__(self) -> None:
        check(self, freeze_at=each(FRACTION))
        check(self, freeze_at=(lambda fractions: len(fractions) == len(self.freeze), "as many values as freeze has"))


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Augmentation of training batches."""

    padding: int = 4
    """Pixels added on each side before the random crop of 32 × 32 images; in proportion for other sizes."""
    padding_mode: Literal["constant", "reflect", "mean"] = "constant"
    """Values of the added pixels: zeros, the mirrored image, or the mean (zeros after normalisation)."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    alternate_flip: bool = False
    """Flip each image in every other epoch, half of the images in the first epoch, instead of at random (flip_p)."""
    cutout: int = 8
    """Side in pixels of the square of 32 × 32 images that is set to the mean, in proportion for other sizes; 0 for
    none."""
    shift_scale_rotate_p: float = 0.0
    """Probability of a random shift, scale and rotation before the cutout."""
    shift_limit: float = 0.05
    """Largest shift in either direction, as a fraction of the image's side."""
    scale_limit: float = 0.05
    """Largest relative change of the scale in either direction."""
    rotate_limit: float = 5.0
    """Largest rotation in either direction, in degrees."""
    rotate_p: float = 0.0
    """Probability of a second random rotation, after the cutout."""
    stock_kornia: bool = False
    """Crop and flip with Kornia's own operations instead of the single gather (equal results, slower)."""

    def __post_init__(self) -> None:
        pixels = (lambda size: 0 <= size < 32, "a whole number from 0 to 31")
        side = (lambda size: 0 <= size <= 32, "a whole number from 0 to 32")
        angle = (lambda value: 0 <= value <= 180, "from 0 to 180 degrees")
        check(
            self, padding=pixels, cutout=side, rotate_limit=angle, flip_p=FRACTION, rotate_p=FRACTION,
            shift_scale_rotate_p=FRACTION, shift_limit=BELOW_1, scale_limit=BELOW_1,
        )  # fmt: skip
        if self.alternate_flip:
            check(self, flip_p=(lambda value: value == 0, "0 with alternate_flip, which flips without chance"))


@dataclass(frozen=True, kw_only=True)
class ResizeSettings:
    """Progressive resizing."""

    resize_sizes: tuple[int, ...] = ()
    """Sides in pixels to which augmented 32 × 32 images are reduced, one size after the other, before training
    continues at full size; in proportion for other sizes, but not below 8 pixels."""
    resize_fractions: tuple[float, ...] = ()
    """Fraction of the steps at each of these sizes."""

    def __post_init__(self) -> None:
        at_least_8 = (lambda size: size >= MIN_SIZE, f"a whole number, at least {MIN_SIZE}")
        same_length = (lambda fractions: len(fractions) == len(self.resize_sizes), "as many values as resize_sizes has")
        check(self, resize_sizes=each(at_least_8), resize_fractions=each(FRACTION))
        check(self, resize_fractions=same_length)
        check(self, resize_fractions=(lambda fractions: sum(fractions) <= 1, "at most 1 in total"))


@dataclass(frozen=True, kw_only=True)
class TTASettings:
    """Test-time augmentation."""

    tta: Literal["none", "flip", "flip-shift"] = "none"
    """Test-time augmentation of the last evaluation: average the logits over the image and its mirror image, or also
    over copies shifted by one pixel."""
    tta_fraction: float = 1.0
    """Fraction of each batch, the least confident images, that gets test-time augmentation."""

    def __post_init__(self) -> None:
        check(self, tta_fraction=FRACTION)


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Optimizer, learning rate and loss."""

    optimizer: Literal["adam", "sgd", "muon"] = "adam"
    """Adam, SGD with momentum, or Muon for convolutions and hidden matrices with Nesterov SGD for other parameters."""
    max_lr: float = 5.34e-3
    """Highest learning rate of the one-cycle schedule (LRMAX)."""
    bias_lr: float = 50.0
    """With Muon, SGD's highest learning rate for biases, norms and embeddings."""
    head_lr: float = 500.0
    """With Muon, SGD's highest learning rate for the last layer."""
    div_factor: float = 10.0
    """The first learning rate (LRMIN) is max_lr divided by this."""
    final_div_factor: float = 1.0
    """The last learning rate is the first one divided by this; with 1 it does not fall below LRMIN."""
    pct_start: float = 5 / 24
    """Fraction of the steps during which the learning rate rises."""
    weight_decay: float = 1e-4
    """L2 penalty, which the optimizer adds to the gradient."""
    l1: float = 0.0
    """L1 penalty: this times the sign of each weight is added to its gradient."""
    momentum: float = 0.9
    """SGD's momentum; if it cycles, its value where the learning rate is lowest."""
    peak_momentum: float | None = None
    """SGD's momentum where the learning rate is highest; the momentum is constant if not given."""
    muon_momentum: float = 0.6
    """Muon's momentum."""
    label_smoothing: float = 0.0
    """Fraction of each label that is spread evenly over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight of an image's loss: 1 (none), or N / (K n) in a class with n of the N training images, for K classes
    (balanced), so that all classes count the same."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Reaction to a loss or gradient that is not finite: stop before the weights are updated, or skip the step."""
    max_skipped: int = 10
    """Steps that may be skipped before the run stops nevertheless."""

    def __post_init__(self) -> None:
        check(
            self, max_lr=POSITIVE, bias_lr=POSITIVE, head_lr=POSITIVE, div_factor=POSITIVE, final_div_factor=POSITIVE,
            pct_start=BELOW_1, max_skipped=AT_LEAST_1, weight_decay=NOT_NEGATIVE, l1=NOT_NEGATIVE, momentum=BELOW_1,
            peak_momentum=BELOW_1, muon_momentum=BELOW_1, label_smoothing=BELOW_1,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """Device, precision and seed."""

    device: str = "auto"
    """'cpu', 'cuda', 'cuda:1', …; 'auto' is CUDA if available, and the CPU otherwise."""
    seed: int = 0
    """Seed of the weights, the sample order, the augmentation and the validation split."""
    amp: bool = False
    """Mixed precision: the fastest that the device computes in hardware."""
    amp_dtype: Literal["auto", "bfloat16", "float16"] = "auto"
    """Precision of --amp, to override the choice by device; float16 comes with loss scaling."""
    compile: bool = False
    """Compile network and augmentation with torch.compile, if a compiler works."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """Mode of torch.compile."""
    cuda_graphs: bool = False
    """On CUDA, capture the training step and the evaluation of a batch as CUDA graphs before the clock starts, and
    replay each with one launch, compiled or not. A CPU runs without them."""
    channels_last: bool = True
    """Keep images and weights in the channels-last memory format, which is faster."""
    deterministic: bool = False
    """On CUDA, use only deterministic algorithms, so that equal seeds give equal weights; slower. The CPU is always
    deterministic."""
    sync_batchnorm: bool = False
    """Of several processes, normalise with the statistics of the whole batch, not with those of each one's share."""
    compress_gradients: bool = False
    """Of several processes, exchange gradients in bfloat16, which halves the bytes."""

    def __post_init__(self) -> None:
        check(self, seed=(lambda value: 0 <= value < 2**63, "from 0 to 2**63 - 1"))
        if self.cuda_graphs and self.compile:
            expected = "a mode without its own CUDA graphs, such as 'max-autotune-no-cudagraphs', with cuda_graphs"
            check(self, compile_mode=(lambda mode: mode not in ("reduce-overhead", "max-autotune"), expected))
