#!/usr/bin/env bash
# Look up the pinned requirements in the database of known vulnerabilities. If it cannot be reached, say so and succeed:
# the hashes of the pinned packages still protect them.
#
#   bash scripts/audit.sh
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements-dev.txt

report=$(mktemp)
trap 'rm -f "$report"' EXIT
# pip-audit exits with 1 both for a vulnerability and for a missing network; only in the first case it writes a report.
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
    print("the database of known vulnerabilities cannot be reached; the packages are still pinned by their hashes")
sys.exit(bool(known))
PYTHON
