#!/usr/bin/env bash
# Build the source distribution and the wheel in dist/, check them, and try out the wheel in an environment of its own.
#
#   bash scripts/package.sh [ENVIRONMENT]        the folder of that environment, if it is to be kept
#
# The new environment holds only the wheel. It takes the other packages from the environment that scripts/setup.sh made.
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

python -m venv --without-pip "$environment"
python -c 'import sysconfig; print(f"import site; site.addsitedir({sysconfig.get_path('\''purelib'\'')!r})")' \
  >"$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/requirements.pth"
python -m pip --python "$environment/bin/python" install --quiet --no-index --no-deps dist/fastcifar-*.whl

cd "$work" # where the checkout cannot be imported
for arguments in --version --help doctor recipes; do
  say "The wheel's \`fastcifar $arguments\`:"
  "$environment/bin/fastcifar" "$arguments"
done
[[ $("$environment/bin/python" -c 'import fastcifar; print(fastcifar.__file__)') == "$environment"/* ]] ||
  fail "The environment imports fastcifar from elsewhere."
