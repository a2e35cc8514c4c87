#!/usr/bin/env bash
# Install fastcifar and its requirements: system libraries, a virtual environment in .venv (or $FASTCIFAR_VENV).
#
#   source scripts/setup.sh requirements.txt        # to use it
#   source scripts/setup.sh requirements-dev.txt    # to work on it
#
# Afterwards the shell is at the root of the checkout, with the environment's commands first on the PATH. A stamp file in
# the environment records the installed versions; if they are still the same, nothing is done.
set -euo pipefail

requirements=${1:?usage: source scripts/setup.sh requirements.txt|requirements-dev.txt}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${FASTCIFAR_VENV:-$PWD/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

say() { printf '%s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# A hash of everything that an installation of the requirements file $1 depends on.
fingerprint() {
  { cat "$1" pyproject.toml && printf '%s\n' "$PWD" && "$venv/bin/python" -V; } 2>/dev/null | sha256sum
}

stamp() { printf '%s' "$venv/.fastcifar-$1"; }

is_installed() {
  local expected
  [[ -f $(stamp "$1") ]] && expected=$(fingerprint "$1") && [[ $(<"$(stamp "$1")") == "$expected" ]]
}

# The environment's Python, if it works, or the first on the PATH that is new enough.
find_python() {
  local python
  for python in "$venv/bin/python" python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$python"
      return
    fi
  done
  return 1
}

# The missing Debian packages, one per line: FFCV is compiled against OpenCV and TurboJPEG, torch.compile calls the
# compiler, the download of CIFAR-10 checks certificates, and the tests call git.
missing_packages() {
  local python prefix=python3
  local open_header='import sysconfig; open(sysconfig.get_path("include") + "/Python.h")'
  command -v g++ >/dev/null || echo g++
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists opencv4 2>/dev/null || echo libopencv-dev
  pkg-config --exists libturbojpeg 2>/dev/null || echo libturbojpeg0-dev
  compgen -G '/etc/ssl/certs/*' >/dev/null || echo ca-certificates
  [[ $requirements == requirements.txt ]] || command -v git >/dev/null || echo git
  if python=$(find_python); then
    [[ $python == python3.* ]] && prefix=$python
    "$python" -c "$open_header" 2>/dev/null || echo "$prefix-dev"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$prefix-venv"
  else
    printf '%s\n' python3 python3-dev python3-venv
  fi
}

install_packages() {
  local packages=("$@") as_root=()
  local typed="sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}"
  command -v apt-get >/dev/null ||
    fail "Missing: ${packages[*]} (names of Debian packages). Install them or their equivalents, and run this again."
  if ((EUID)); then
    sudo -n true 2>/dev/null || fail "Missing: ${packages[*]}. Run this command, then run this script again: $typed" \
      $'\n'"If you may not, 'pip install .' installs fastcifar without FFCV, which needs none of them."
    as_root=(sudo)
  fi
  say "Installing ${packages[*]} with apt, which takes a minute or two."
  "${as_root[@]}" apt-get -qq update || fail "apt-get update failed (see above)."
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" \
    >/dev/null || fail "apt-get failed (see above). When that is fixed, run: $typed"
}

make_environment() {
  local options=()
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
  [[ -f $venv/pyvenv.cfg ]] && options=(--clear) # an incomplete environment, or one whose Python is gone
  say "Creating a virtual environment in $venv."
  "$1" -m venv "${options[@]}" "$venv"
}

install_python_packages() {
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet) file
  rm -f "$venv"/.fastcifar-* # an interrupted installation leaves no stamp
  say "Installing PyTorch and the other packages: about 5 GB, a few minutes."
  "${pip[@]}" --use-pep517 --require-hashes -r "$requirements"
  "${pip[@]}" --no-deps --editable .
  for file in requirements.txt "$requirements"; do # the second contains the first
    fingerprint "$file" >"$(stamp "$file")"
  done
}

set_up() {
  local packages python
  [[ $(uname -s) == Linux ]] || fail "FFCV runs on Linux only. Elsewhere, 'pip install .' does without it."
  mapfile -t packages < <(missing_packages)
  if ((${#packages[@]})); then
    install_packages "${packages[@]}"
    mapfile -t packages < <(missing_packages)
  fi
  python=$(find_python) ||
    fail "Python 3.11 or later is needed; on Debian 12 or Ubuntu 24.04: apt-get install python3 python3-venv python3-dev"
  ((${#packages[@]} == 0)) || fail "Still missing after the installation: ${packages[*]}"
  # the Python that the environment was made from, since an environment cannot replace itself
  [[ $python == "$venv"/* ]] &&
    python=$("$python" -c 'import sys; print(f"{sys.base_prefix}/bin/python3.{sys.version_info.minor}")')
  make_environment "$python"
  install_python_packages
}

is_installed "$requirements" || set_up
export PATH="$venv/bin:$PATH"
