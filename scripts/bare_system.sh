#!/usr/bin/env bash
# Run README's two commands on a bare system: a new Debian 12 or Ubuntu 24.04 with only what debootstrap installs.
#
#   sudo bash scripts/bare_system.sh debian|ubuntu [COMMAND ...]        e.g. 'bash scripts/test.sh -m "not slow"'
#
# The commands run in a clone of the last commit, in a folder of 8 GB: $ROOT, which is kept and used again, or else a
# temporary one. $FASTCIFAR_DATA is mounted there, read-only; the index and the certificate that pip uses here are used
# there, too. The mounts and processes have namespaces of their own: none of them is left, however the script ends.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

make_root() {
  local options=(--variant=minbase)
  [[ ! -e $root/fastcifar ]] || return 0
  say "Installing a minimal $system in $root."
  if [[ $system == debian ]]; then
    options+=(bookworm "$root" http://deb.debian.org/debian)
  else # the script gutsy is that of every newer Ubuntu; an older debootstrap does not know the name noble
    options+=("--components=main,universe" noble "$root" http://archive.ubuntu.com/ubuntu)
    options+=(/usr/share/debootstrap/scripts/gutsy)
  fi
  debootstrap "${options[@]}" >"$root/debootstrap.log" || fail "debootstrap failed: see $root/debootstrap.log."
}

clone() {
  git init --quiet "$root/fastcifar"
  git -C "$root/fastcifar" fetch --quiet "$PWD" HEAD
  git -C "$root/fastcifar" checkout --quiet --force FETCH_HEAD
}

# The variables of the new system: those of a login, and where pip finds packages on a machine behind a mirror.
set_variables() {
  local line name value
  variables=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "TERM=${TERM:-dumb}")
  [[ -z ${FASTCIFAR_DATA:-} ]] || variables+=(FASTCIFAR_DATA=/mnt)
  while IFS= read -r line; do
    name=${line%%=*} name=${name##*.} value=${line#*=\'} value=${value%\'}
    case $name in
      cert) cp "$value" "$root/etc/pip.pem" && value=/etc/pip.pem ;;
      index-url | proxy | trusted-host) ;;
      *) continue ;;
    esac
    name=${name//-/_}
    variables+=("PIP_${name^^}=$value")
  done < <(python3 -m pip config list 2>/dev/null)
}

# Run the command $2 in the new system $1, with the variables that follow.
run_inside() {
  local root=$1 command=$2
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  [[ -z ${FASTCIFAR_DATA:-} ]] || mount --bind --options ro "$FASTCIFAR_DATA" "$root/mnt"
  exec chroot "$root" env --ignore-environment "${@:3}" bash -c "cd fastcifar && $command"
}

((EUID == 0)) || fail "A new system can be made by root only: sudo bash scripts/bare_system.sh …"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
system=${1:-}
[[ $system == debian || $system == ubuntu ]] || fail "usage: sudo bash scripts/bare_system.sh debian|ubuntu [COMMAND ...]"
shift
(($#)) || set -- 'bash scripts/quickstart.sh' 'bash scripts/test.sh'

root=$(realpath "${ROOT:-$(mktemp -d)}")
[[ -n ${ROOT:-} ]] || trap 'rm -rf --one-file-system "$root"' EXIT
[[ -z ${FASTCIFAR_DATA:-} ]] || FASTCIFAR_DATA=$(realpath "$FASTCIFAR_DATA")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$root"
make_root
clone
cp /etc/resolv.conf "$root/etc/resolv.conf"
set_variables
export -f run_inside
for command in "$@"; do
  start=$SECONDS
  say "On a bare $system: $command"
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child \
    bash -euc 'run_inside "$@"' bash "$root" "$command" "${variables[@]}" ||
    fail "It failed after $((SECONDS - start)) s: $command"
  say "It ended well after $((SECONDS - start)) s: $command"
done
