from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fastcifar.cli import COMMANDS, main

Capture = pytest.CaptureFixture[str]


def complete(script: Path, words: list[str]) -> list[str]:
    """Return the completions that bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    commands = f"""
        source '{script}'
        function=$(complete -p fastcifar); function=${{function#*-F }}; function=${{function%% *}}
        COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
        $function fastcifar '{words[-1]}' '{words[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return [line.strip() for line in done.stdout.splitlines()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_their_flags(tmp_path: Path, capsys: Capture) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "fastcifar"
    script.write_text(capsys.readouterr().out)
    assert set(COMMANDS) <= set(complete(script, ["fastcifar", ""]))
    assert complete(script, ["fastcifar", "eval"]) == ["evaluate"]
    assert {"--max-lr", "--max-skipped"} <= set(complete(script, ["fastcifar", "train", "--max-"]))
    assert "--max-lr" in complete(script, ["fastcifar", "lr-find", "--max-"])
    assert complete(script, ["fastcifar", "evaluate", "--checkp"]) == ["--checkpoint"]
    assert set(complete(script, ["fastcifar", "train", "--optimizer", ""])) == {"adam", "sgd", "muon"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    assert "write-beton" in capsys.readouterr().out


def test_an_unknown_shell_is_a_usage_error(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["completion", "cmd"])
    assert stopped.value.code == 2
    assert "bash" in capsys.readouterr().err
