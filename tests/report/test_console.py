from __future__ import annotations

import dataclasses
import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fastcifar.report.console import RunHeader, TrainingConsole, _loss
from fastcifar.report.terminal import replace_unprintable
from fastcifar.report.units import format_duration, format_lr
from fastcifar.runs.results import EpochResult, StepProgress

HEADER = RunHeader(
    device="CPU: AMD EPYC, 2 threads",
    precision="bfloat16 (AMP), channels-last, compiled",
    model="custom_resnet",
    parameters=6_573_130,
    recipe="era",
    images="cifar10: 50,000 to train on, 10,000 to test on",
    epochs=24,
    batch_size=512,
)
FIRST = EpochResult(
    epoch=1,
    epochs=24,
    train_loss=1.2344,
    train_accuracy=0.551,
    test_loss=1.1,
    test_accuracy=0.602,
    eval_split="test",
    lr_start=5.34e-4,
    lr_end=1.5e-3,
    train_seconds=181.24,
    eval_seconds=5.1,
    images_per_second=273.2,
    total_train_seconds=181.24,
    warmup_seconds=41.2,
    best_accuracy=0.602,
    best_epoch=1,
    peak_memory_bytes=5 * 2**29,
)


def results(*accuracies: float, **changes: object) -> list[EpochResult]:
    """Return one epoch per accuracy, each with the time of FIRST."""
    made = []
    for epoch, accuracy in enumerate(accuracies, start=1):
        best = max(accuracies[:epoch])
        values = {
            "epoch": epoch,
            "test_accuracy": accuracy,
            "total_train_seconds": epoch * FIRST.train_seconds,
            "best_accuracy": best,
            "best_epoch": accuracies.index(best) + 1,
        }
        made.append(dataclasses.replace(FIRST, **{**values, **changes}))  # type: ignore[arg-type]
    return made


def shown(
    epochs: list[EpochResult], *, target: float | None = None, run_dir: Path | None = None, **options: object
) -> list[str]:
    """Return the lines of a whole run on a terminal without colour and cursor movements."""
    file = io.StringIO()
    settings = {"width": 80, "height": 25, "force_terminal": True, "no_color": True, "color_system": None}
    settings["force_interactive"] = False
    console = Console(file=file, **{**settings, **options})  # type: ignore[arg-type]
    with TrainingConsole(target_accuracy=target, console=console) as training:
        training.header(HEADER)
        training.say("Compiling …")
        for result in epochs:
            training.step(StepProgress(epoch=result.epoch, step=1, steps=97, lr=1e-3))
            training.epoch(result)
        training.summary(run_dir)
    return file.getvalue().splitlines()


def piped(epochs: list[EpochResult], **options: object) -> list[str]:
    return shown(epochs, force_terminal=False, **options)  # type: ignore[arg-type]


def rows(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r" *\d", line)]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_header_describes_the_run(terminal: bool) -> None:
    text = "\n".join(shown([], force_terminal=terminal))
    for fact in (HEADER.device, HEADER.precision, HEADER.images, "custom_resnet, 6,573,130 parameters"):
        assert fact in text
    assert "era, 24 epochs, batches of 512" in text
    assert "Compiling …" in text
    assert "no epoch was finished" in text


@pytest.mark.parametrize(("width", "epochs", "target"), [(80, 24, 0.9), (80, 200, 0.9425), (100, 200, 0.9425)])
def test_the_widest_row_fits_and_columns_stay_in_line(width: int, epochs: int, target: float) -> None:
    wide = {"train_seconds": 1234.56, "eval_seconds": 123.44, "images_per_second": 123456.0, "epochs": epochs}
    lines = shown(results(0.05, 1.0, **wide, train_accuracy=1.0, train_loss=12345.0), target=target, width=width)
    assert max(map(len, lines)) <= width
    first, second = rows(lines)
    heading = lines[lines.index(first) - 1]
    unmarked = second.split(" ◀")[0]
    assert len(first) == len(unmarked) == len(heading)
    assert re.sub(r"\d+", "", first).split() == re.sub(r"\d+", "", unmarked).split()
    for value in ("1e+04", "100.00", "1234.6", "123.4", "123456"):
        assert value in second


def test_table_row_holds_every_value_and_the_heading_comes_once() -> None:
    lines = shown(results(0.602, 0.58))
    first, second = rows(lines)
    assert " ".join(first.split()) == "1 1.234 55.10 1.100 60.20 5.3e-4→1.5e-3 181.2 5.10 273 60.20 1"
    assert second.split()[4] == "58.00"
    assert second.split()[-2:] == ["60.20", "1"]
    assert sum("start→end" in line for line in lines) == 1
    assert sum("── test ──" in line for line in lines) == 1


def test_a_wide_terminal_gets_more_digits_of_the_learning_rate() -> None:
    (row,) = rows(shown(results(0.602), width=120))
    assert "5.34e-4 → 1.50e-3" in row


@pytest.mark.parametrize("show", [shown, piped])
def test_only_the_first_epoch_that_reaches_the_target_is_marked(show: object) -> None:
    lines = show(results(0.8999, 0.9, 0.89, 0.95))  # type: ignore[operator]
    assert [line.endswith("◀ 90 %") for line in lines if re.match(r"epoch|[ \d]\d ", line)] == [
        False,
        True,
        False,
        False,
    ]
    assert sum("◀" in line for line in lines) == 1


def test_the_target_is_reached_with_test_time_augmentation_too() -> None:
    lines = shown(results(0.89, tta_accuracy=0.9012, tta_seconds=2.5))
    assert "◀" in rows(lines)[0]
    assert any(re.search(r"with test-time augmentation +90\.12 %, in 2\.50 s", line) for line in lines)


def test_a_target_replaces_the_default() -> None:
    lines = shown(results(0.91, 0.9425), target=0.9425)
    assert "◀" not in rows(lines)[0]
    assert "◀" in rows(lines)[1]
    assert any("time to 94.25 %" in line and "epoch 2" in line for line in lines)


def test_validation_is_called_by_its_name() -> None:
    epochs = results(0.91, eval_split="validation")
    for lines in (shown(epochs), piped(epochs)):
        text = "\n".join(lines).replace(HEADER.images, "")
        assert re.search(r"─ val ─|val 1\.100", text)
        assert "validation accuracy" in text
        assert "selected on the validation set" in text
        assert "test" not in text


def test_a_pipe_gets_one_plain_labelled_line_per_epoch() -> None:
    lines = piped(results(0.602, 0.58))
    assert "\x1b" not in "".join(lines)
    assert "\r" not in "".join(lines)
    epochs = [line for line in lines if line.startswith("epoch")]
    assert epochs[0] == (
        "epoch  1/24  train 1.234  55.10 %  test 1.100  60.20 %  lr 5.3e-4→1.5e-3  "
        "181.2 s + 5.10 s eval  273 img/s  best 60.20 % (1)"
    )
    assert len(epochs) == 2
    assert not any(character in "".join(lines) for character in "╭│━─")


@pytest.mark.parametrize("terminal", [True, False])
def test_summary(terminal: bool) -> None:
    run_dir = Path("runs") / ("a-long-name" * 12)
    lines = shown(results(0.85, 0.91, 0.905), run_dir=run_dir, force_terminal=terminal)
    text = "\n".join(line.strip("│ ") for line in lines)
    facts = dict(re.findall(r"^(\S+(?: \S+)*?)  +(\S.*?)$", text, re.MULTILINE))
    assert facts["test accuracy"] == "90.50 %, epoch 3 of 24"
    assert facts["best"] == "91.00 %, selected on the test set, epoch 2"
    assert facts["time to 90 %"] == "6 min 2 s, epoch 2"  # 2 × 181.24 s
    assert facts["training time"] == "9 min 4 s"
    assert facts["evaluation time"] == "15.3 s"
    assert facts["warm-up"] == "41.2 s"
    assert facts["peak memory"] == "2.50 GiB"
    assert lines[-1] == f"Run folder: {run_dir}"


def test_summary_of_a_run_that_missed_the_target() -> None:
    assert any(re.search(r"time to 90 % +not reached", line) for line in shown(results(0.85, 0.8999)))


def test_no_color_removes_only_colour() -> None:
    plain = shown(results(0.85, 0.91))
    coloured = shown(results(0.85, 0.91), no_color=False, color_system="standard")
    assert "\x1b[1;36m" in "".join(coloured)
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured] == plain


def test_dumb_terminal_gets_the_table_without_escape_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    lines = shown(results(0.85, 0.91), force_interactive=None)
    assert "\x1b" not in "".join(lines)
    assert len(rows(lines)) == 2


def test_notebook_and_narrow_terminal_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = shown(results(0.85), width=60)
    assert any(line.startswith("epoch  1/24") for line in narrow)
    cells: list[str] = []
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: cells.append(text))
    shown(results(0.85), force_jupyter=True, force_interactive=True)
    assert sum(cell.startswith("epoch  1/24") for cell in cells) == 1
    assert not any("━" in cell for cell in cells)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_works_in_an_encoding_without_arrows(
    terminal: bool, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding=encoding, write_through=True) as file, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", file)
        replace_unprintable()
        console = Console(file=file, width=80, force_terminal=terminal, force_interactive=terminal)
        with TrainingConsole(target_accuracy=None, console=console) as training:
            training.header(dataclasses.replace(HEADER, device="CPU: プロセッサ"))
            training.step(StepProgress(epoch=1, step=1, steps=97, lr=1e-3))
            training.epoch(results(0.91)[0])
            training.summary(None)
        assert b"< 90 %" in buffer.getvalue()
        assert b"CPU: ?????" in buffer.getvalue()


def live(file: io.StringIO, clock: list[float]) -> TrainingConsole:
    console = Console(file=file, width=80, force_terminal=True, force_interactive=True, get_time=lambda: clock[0])
    return TrainingConsole(target_accuracy=None, console=console)


def test_bar_is_drawn_at_most_ten_times_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file, clock = io.StringIO(), [100.0]
    with live(file, clock) as training:
        training.header(HEADER)
        for step in range(1, 98):
            training.step(StepProgress(epoch=3, step=step, steps=97, lr=1.5e-3))
            clock[0] += 1 / 64
        drawn = file.getvalue().count("lr 1.5e-3")
    assert drawn == 14  # at 0 s and then every 7th step, the first at or after a tenth of a second, of 1.5 s
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue())
    assert "epoch 3/24" in text
    assert " 8/97  32768 img/s  lr 1.5e-3  1.39 s left" in text  # 7 steps of 512 images in 7/64 s; 89 steps to go


def _steps_without_a_bar(seconds_per_step: float, *, epochs: int = 1, **options: object) -> list[str]:
    """Return the lines after the header: epochs of ten steps, where each step and each evaluation takes that long."""
    file, clock = io.StringIO(), [100.0]
    settings: dict[str, object] = {"width": 80, "height": 25, "force_terminal": False, "no_color": True, **options}
    console = Console(file=file, get_time=lambda: clock[0], **settings)  # type: ignore[arg-type]
    with TrainingConsole(target_accuracy=None, console=console) as training:
        training.header(HEADER)
        before = len(file.getvalue())
        for result in results(*[0.5] * epochs):
            for step in range(1, 11):
                _wait(seconds_per_step, clock, training)
                training.step(StepProgress(epoch=result.epoch, step=step, steps=10, lr=1.5e-3))
            _wait(seconds_per_step, clock, training)
            training.epoch(result)
    return file.getvalue()[before:].splitlines()


def _wait(seconds: float, clock: list[float], training: TrainingConsole) -> None:
    """Let the clock and the timer go on, in steps of half a second."""
    for _ in range(round(2 * seconds)):
        clock[0] += 0.5
        training.progress.print_if_silent()


@pytest.mark.parametrize("options", [{}, {"force_terminal": True, "width": 60}])
def test_without_a_bar_a_line_comes_after_25_seconds_of_silence(options: dict[str, object]) -> None:
    lines = _steps_without_a_bar(12.0, **options)
    assert [line.split("  train ")[0] for line in lines] == [
        "epoch 1/24  step  2/10  43 img/s  lr 1.5e-3  1 min 36 s left in this epoch",  # a step of 512 in 12 s
        "epoch 1/24  step  4/10  43 img/s  lr 1.5e-3  1 min 12 s left in this epoch",
        "epoch 1/24  step  6/10  43 img/s  lr 1.5e-3  48.0 s left in this epoch",
        "epoch 1/24  step  8/10  43 img/s  lr 1.5e-3  24.0 s left in this epoch",
        "epoch 1/24  evaluating: 5.00 s so far",
        "epoch  1/24",
    ]


def test_a_step_of_minutes_is_not_silent() -> None:
    lines = _steps_without_a_bar(60.0)
    assert lines[:4] == [
        "starting: 25.0 s so far",
        "starting: 50.0 s so far",
        "epoch 1/24  step  1/10  lr 1.5e-3",
        "epoch 1/24  step  1/10  lr 1.5e-3  (unchanged for 40.0 s)",
    ]
    assert " 9 img/s " in lines[4]
    assert lines[-2].startswith("epoch 1/24  evaluating: ")


def test_a_dumb_terminal_gets_lines_between_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    lines = _steps_without_a_bar(20.0, force_terminal=True)
    assert "\x1b" not in "".join(lines)
    assert sum(bool(re.match(r"epoch 1/24  step +\d+/10  ", line)) for line in lines) == 8
    assert lines[-1].split()[:3] == ["1", "1.234", "55.10"]


def test_epochs_of_less_than_25_seconds_get_no_other_line() -> None:
    lines = _steps_without_a_bar(2.0, epochs=4)  # 11 × 2 s
    assert [line[:11] for line in lines] == [f"epoch  {epoch}/24" for epoch in (1, 2, 3, 4)]


def test_each_epoch_counts_its_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file, clock = io.StringIO(), [0.0]
    with live(file, clock) as training:
        training.header(HEADER)
        for epoch, seconds in ((1, 1.0), (2, 2.0)):
            for step in (1, 2):
                training.step(StepProgress(epoch=epoch, step=step, steps=3, lr=1e-3))
                clock[0] += seconds
            clock[0] += 30  # the evaluation
    assert re.findall(r"(\d+) img/s", file.getvalue())[0] == "512"
    assert "256 img/s" in file.getvalue()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_live_display_ends_with_an_error(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stdout, stderr = sys.stdout, sys.stderr
    monkeypatch.setattr(stdout, "isatty", lambda: True)
    file = io.StringIO()

    def fail_in_an_epoch() -> None:
        with live(file, [0.0]) as training:
            training.step(StepProgress(epoch=1, step=1, steps=97, lr=1e-3))
            assert sys.stdout is not stdout
            raise error

    with pytest.raises(error):
        fail_in_an_epoch()
    assert "\x1b[?25l" in file.getvalue()
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")
    assert file.getvalue().endswith("\x1b[2K")  # the bar's own line is gone too
    assert (sys.stdout, sys.stderr) == (stdout, stderr)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 s"),
        (9.994, "9.99 s"),
        (9.999, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (4349.6, "1 h 12 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_losses_and_learning_rates_keep_their_width() -> None:
    assert [_loss(loss) for loss in (0.01234, 9.9996, 123.456, 12345.0)] == ["0.012", "10", "123.5", "1e+04"]
    assert [_loss(float(name)) for name in ("nan", "inf")] == ["nan", "inf"]
    assert [format_lr(rate) for rate in (5.34e-4, 1.0, 0.0, 2e-10, 30.0)] == [
        "5.3e-4",
        "1.0e0",
        "0.0e0",
        "2.0e-10",
        "3.0e1",
    ]
