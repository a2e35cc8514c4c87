#!/usr/bin/env bash
# Look the pinned requirements up in the database of known vulnerabilities. Where it cannot be reached, say so and pass:
# the pins' hashes hold without it.
#
#   bash scripts/audit.sh
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements-dev.txt

report=$(mktemp)
trap 'rm -f "$report"' EXIT
# It exits with 1 both for what is vulnerable and for a network that is not there; only the first leaves a report.
python -m pip_audit --requirement requirements-dev.txt --require-hashes --disable-pip --format json >"$report" || true
python - "$report" <<'PYTHON'
import json
import sys

with open(sys.argv[1]) as file:
    text = file.read()
packages = json.loads(text)["dependencies"] if text.strip() else []
audited = [package for package in packages if "vulns" in package]
known = [f"{package['name']} {package['version']}: {v['id']}" for package in audited for v in package["vulns"]]
if audited:
    print("\n".join(known) or f"audited {len(audited)} of {len(packages)} pinned packages: no known vulnerability")
else:
    print("the database of known vulnerabilities cannot be reached from here; the packages stay pinned by their hashes")
sys.exit(bool(known))
PYTHON
