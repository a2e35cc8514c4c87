#!/usr/bin/env bash
# Build the source distribution and the wheel in dist/, check them, and try out the wheel in an environment of its own.
#
#   bash scripts/package.sh [ENVIRONMENT]        the folder of that environment, if it is to be kept
#
# The new environment holds only the wheel. It takes the other packages from the environment that scripts/setup.sh made.
# Another one is without FFCV and OpenCV: there, a short training runs from pictures to the report.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements-dev.txt

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
environment=${1:-$work/environment}

rm -f dist/fastcifar-*
python -m build --no-isolation --quiet
python -m twine check --strict dist/fastcifar-*

# each file of the package that git knows must be in both
git ls-files fastcifar | sort >"$work/expected"
python -m zipfile --list dist/fastcifar-*.whl | grep -o '^fastcifar/[^ ]*' | sort >"$work/wheel"
tar --list --gzip --file dist/fastcifar-*.tar.gz | sed -n 's|^[^/]*/\(fastcifar/.*[^/]\)$|\1|p' | sort >"$work/sdist"
for kind in wheel sdist; do
  diff "$work/expected" "$work/$kind" || fail "The files of the package (<) are not those of the $kind (>)."
done

# Make an environment in the folder $1 with the wheel; it takes the other packages from the folder $2.
install_wheel() {
  local find_packages='import sysconfig; print(sysconfig.get_path("purelib"))'
  python -m venv --without-pip "$1"
  printf 'import site; site.addsitedir("%s")\n' "$2" >"$("$1/bin/python" -c "$find_packages")/requirements.pth"
  python -m pip --python "$1/bin/python" install --quiet --no-index --no-deps dist/fastcifar-*.whl
}

site_packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install_wheel "$environment" "$site_packages"

# where FFCV cannot be built: the same packages, without FFCV and OpenCV
mkdir "$work/packages"
find "$site_packages" -mindepth 1 -maxdepth 1 ! -name '*.pth' ! -name 'fastcifar*' ! -name 'ffcv*' ! -name 'cv2*' \
  ! -name 'opencv*' -exec ln --symbolic --target-directory "$work/packages" {} +
install_wheel "$work/without-ffcv" "$work/packages"

cd "$work" # where the checkout cannot be imported
for arguments in --version --help doctor recipes; do
  say "The wheel's \`fastcifar $arguments\`:"
  "$environment/bin/fastcifar" "$arguments"
done
[[ $("$environment/bin/python" -c 'import fastcifar; print(fastcifar.__file__)') == "$environment"/* ]] ||
  fail "The environment imports fastcifar from elsewhere."

say "The wheel without FFCV, from pictures to a report:"
PATH=$work/without-ffcv/bin:$PATH
python - <<'PYTHON'
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from fastcifar.data.synthetic import SHAPES, draw_synthetic

assert find_spec("ffcv") is None
assert find_spec("cv2") is None
for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=400, test=100)):
    for number, (image, label) in enumerate(zip(images, labels)):
        path = Path("pictures", split, list(SHAPES)[label], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
PYTHON
fastcifar write-beton --source pictures --out betons
fastcifar train --recipe quick --model dilated_cnn --epochs 1 --data-dir betons --run-dir run
fastcifar evaluate run
[[ -s run/report/report.html ]] || fail "The training without FFCV wrote no report."
