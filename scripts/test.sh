#!/usr/bin/env bash
# Install the tests' requirements, and run the tests. Those that need a GPU or CIFAR-10 are skipped without it.
#
#   bash scripts/test.sh [OPTION OF pytest ...]        e.g. -m "not slow"
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements-dev.txt

python -m pytest "$@"
