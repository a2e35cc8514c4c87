#!/usr/bin/env bash
# From a clone to a trained network: set up, write CIFAR-10 as .beton files, train on the GPU or, shorter, on the CPU.
#
#   bash scripts/quickstart.sh [OPTION OF `fastcifar train` ...]        e.g. --epochs 3
#
# The data comes from $FASTCIFAR_DATA, an earlier download or a new one. If none of these is available, it says so and
# trains on synthetic images, which are kept apart in data/betons-synthetic.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt

is_written() {
  local name
  for name in train test; do
    [[ -f $1/$name.beton && -f $1/$name.beton.json ]] || return 1
  done
}

betons=data/betons
if ! is_written "$betons"; then
  status=0
  fastcifar write-beton --source auto --out "$betons" || status=$?
  ((status < 128)) || exit "$status" # stopped by a signal such as Ctrl-C: not a missing data set
  if ((status)); then
    betons=data/betons-synthetic
    say "CIFAR-10 is not available (reason above). Continuing with synthetic images: the accuracy below says nothing" \
      "about CIFAR-10. To use the real data, name the folder that contains it and run this again:" \
      "FASTCIFAR_DATA=/folder/with/cifar-10-batches-py bash scripts/quickstart.sh"
    is_written "$betons" || fastcifar write-beton --source synthetic --out "$betons"
  fi
fi

find_device='
from fastcifar.device import resolve_runtime
from fastcifar.settings import RuntimeSettings
print(resolve_runtime(RuntimeSettings()).device.type)'
if [[ $(python -c "$find_device") == cuda ]]; then
  recipe=(--recipe era --amp --compile --cuda-graphs)
else
  recipe=(--recipe speedrun) # the shortest time to 90 %
  [[ $betons == data/betons ]] || recipe+=(--batch-size 250) # more steps, since there are fewer images
fi
say "Training with the recipe '${recipe[1]}' on $betons."
fastcifar train "${recipe[@]}" --data-dir "$betons" "$@"

say "Next, after 'source ${venv#"$PWD"/}/bin/activate': 'fastcifar train --recipe era --amp' for all 24 epochs of the" \
  "exercise, 'fastcifar recipes' for the other recipes, 'fastcifar --help' for all commands."
