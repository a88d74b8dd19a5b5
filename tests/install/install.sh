#!/usr/bin/env bash
# install.sh NAME…: what the tests and the demo need beyond Python packages. Quiet where it is there already.
#
#   git-lfs         by apt-get or brew; the only thing that is installed system-wide without being asked for
#   git-lfs-newest  git-lfs 3.8.1 by `go install`, into the cache
#   toxiproxy       Toxiproxy 2.12.0 by `go install`, into the cache: `make bench` puts it before a store that is far away
#   versitygw       Versity S3 Gateway 1.8.0 by `go install`, into the cache
#   localstack      LocalStack 4.13.1 in a virtual environment of its own, in the cache
#   gto             GTO 1.10.1, likewise
#   ml-cellar       ml-cellar 0.2.0 by cargo, into the cache
#   ceph            Ceph's mon, osd and radosgw by apt-get, system-wide: only when asked for by this name, or by all-ci
#   nss-wrapper     libnss-wrapper by apt-get, system-wide, likewise: buckets as host names in a test's own process
#   all-ci          all of them
#   venv DIR        the development environment of packaging/dev.lock, in DIR
#
# The cache: $LFS_AGENT_TEST_CACHE, else $XDG_CACHE_HOME/lfs-agent-tests, else ~/.cache/lfs-agent-tests. Each build is made
# beside its place and moved there when it is whole. Written for bash 3.2 (macOS).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${LFS_AGENT_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lfs-agent-tests}
PATH=$PATH:/usr/local/go/bin:$HOME/go/bin:$HOME/.cargo/bin:$HOME/.local/bin

temporary=
trap 'if [ -n "$temporary" ]; then chmod -R u+w "$temporary"; rm -rf "$temporary"; fi' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '%s\n' "$*" >&2; }
fail() { say "install: $*"; return 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# logged NAME COMMAND…: runs it without input, its output in the cache's log; the end of it is shown when it fails.
logged() {
  local name=$1 log=$cache/log/$1.log; shift
  mkdir -p "$cache/log"
  if ! "$@" </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "$name: \`$*\` failed; the whole output is in $log"
  fi
}

# fresh NAME: sets $temporary to a new empty folder in the cache, on the file system of the place it will be moved to.
fresh() { mkdir -p "$cache"; temporary=$(mktemp -d "$cache/.$1.XXXXXX"); }
# place DIR: moves what was built to DIR; what another run put there in the meantime is as good.
place() {
  rm -rf "$1.old"
  if [ -e "$1" ]; then mv "$1" "$1.old"; fi
  mv "$temporary" "$1"; temporary=
  rm -rf "$1.old"
}

# apt_install NAME PACKAGE…: by apt-get, as root or through sudo.
apt_install() {
  local name=$1 sudo=(); shift
  if [ "$(id -u)" != 0 ]; then
    have sudo || fail "$name needs root: run \`apt-get install $*\` as root, then try again" || return
    if [ -t 0 ]; then sudo -v; fi
    sudo -n true 2>/dev/null || fail "$name needs root: run \`sudo apt-get install $*\`, then try again" || return
    sudo=(sudo -n)
  fi
  say "Installing $* (apt-get) …"
  logged "$name" ${sudo[@]+"${sudo[@]}"} apt-get update -q || return
  logged "$name" ${sudo[@]+"${sudo[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "$@"
}

# go_install NAME VERSION MODULE TIME [PROGRAM]: the program's name where it is another one.
go_install() {
  local name=$1 version=$2 module=$3 time=$4 dir=$cache/$1-$2
  if [ ! -x "$dir/${5:-$name}" ]; then
    have go || fail "$name $version is built with Go, which is not here: see https://go.dev/doc/install" || return
    say "Building $name $version with Go ($time, once) …"
    fresh "$name"
    logged "$name-$version" env -u GOFLAGS GOBIN="$temporary" go install "$module" || return
    place "$dir"
  fi
}
link() { mkdir -p "$cache/bin" && ln -sfn "../$1/$2" "$cache/bin/$2"; }

# find_python NEWEST MODULES: a Python from 3.11 to 3.NEWEST that runs (a pyenv shim may not) and has MODULES: $PYTHON, or
# the first that was compiled as most people have it (pyenv leaves the optimization out), or the first of all.
find_python() {
  local wanted optimized="sys.base_prefix == '/usr' or 'enable-optimizations' in str(sysconfig.get_config_var('CONFIG_ARGS'))"
  is_python "${PYTHON:-false}" "$@" True && return
  for wanted in "$optimized" True; do
    first_python "$@" "$wanted" && return
  done
  return 1
}

first_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3 \
      /opt/homebrew/bin/python3.1[1-4] /usr/local/bin/python3.1[1-4] "$HOME"/.pyenv/versions/3.1[1-4]*/bin/python3; do
    is_python "$candidate" "$@" && return
  done
  return 1
}

# is_python PROGRAM NEWEST MODULES CONDITION: says where it is.
is_python() {
  "$1" -c "import sys, sysconfig, $3
if (3, 11) <= sys.version_info[:2] <= (3, $2) and ($4): print(sys.executable)
else: sys.exit(1)" </dev/null 2>/dev/null
}

# pip_wheel: a wheel of pip from Debian's package of it, not installed: Debian's Python has venv, but without
# python3-venv nothing to put pip into an environment.
pip_wheel() {
  local dir=$cache/pip
  if ! ls "$dir"/usr/share/python-wheels/pip-*.whl >/dev/null 2>&1; then
    { have apt-get && have dpkg-deb; } || return
    mkdir -p "$dir"
    if [ "$(id -u)" = 0 ] && ! apt-cache show python3-pip-whl >/dev/null 2>&1; then apt-get update -q >&2 || return; fi
    ( cd "$dir" && apt-get download -q python3-pip-whl >&2 && dpkg-deb -x python3-pip-whl_*.deb . ) || return
  fi
  ls "$dir"/usr/share/python-wheels/pip-*.whl
}

venv_without_ensurepip() {
  local wheel
  wheel=$(pip_wheel) || return
  "$1" -m venv --without-pip "$2" && PYTHONPATH=$wheel "$2/bin/python" -m pip install -q --no-index "$wheel"
}

# make_venv NAME DIR LOCK NEWEST: a virtual environment in DIR that holds what LOCK pins.
make_venv() {
  local name=$1 dir=$2 lock=$3 newest=$4 python
  if have uv; then
    python=$(find_python "$newest" venv) || python=3.13
    logged "$name" uv venv -q --allow-existing --python "$python" "$dir" || return
    logged "$name" uv pip install -q --require-hashes --python "$dir/bin/python" -r "$lock"
    return
  elif python=$(find_python "$newest" "ensurepip, venv"); then
    logged "$name" "$python" -m venv "$dir" || return
  elif python=$(find_python "$newest" venv); then
    logged "$name" venv_without_ensurepip "$python" "$dir" 2>/dev/null ||
      fail "$name: $python makes no virtual environments: run \`apt-get install python3-venv\`, or install uv" || return
  else
    if [ "$newest" = 99 ]; then newest="or newer"; else newest="to 3.$newest"; fi
    fail "$name needs Python 3.11 $newest (such as python3.13 on PATH), or uv" || return
  fi
  logged "$name" "$dir/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r "$lock"
}

install_git_lfs() {
  git lfs version >/dev/null 2>&1 && return
  have git || fail "git is not here: install it first" || return
  if have apt-get; then
    apt_install git-lfs git-lfs || return
  elif have brew; then
    say "Installing git-lfs (brew) …"
    logged git-lfs brew install git-lfs || return
  else
    fail "git-lfs is not here, and neither is apt-get or brew: see https://git-lfs.com"
    return
  fi
  git lfs version >/dev/null 2>&1 || fail "git-lfs was installed but \`git lfs version\` still fails"
}

install_git_lfs_newest() {
  go_install git-lfs 3.8.1 github.com/git-lfs/git-lfs/v3@v3.8.1 "half a minute"
}

install_versitygw() {
  go_install versitygw 1.8.0 github.com/versity/versitygw/cmd/versitygw@v1.8.0 "2 minutes" || return
  link versitygw-1.8.0 versitygw
}

install_toxiproxy() {
  go_install toxiproxy 2.12.0 github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0 "half a minute" server
}

install_ml_cellar() {
  local dir=$cache/ml-cellar-0.2.0
  if [ ! -x "$dir/ml-cellar" ]; then
    have cargo || fail "ml-cellar 0.2.0 is built with cargo, which is not here: see https://rustup.rs" || return
    say "Building ml-cellar 0.2.0 with cargo (2 minutes, once) …"
    fresh ml-cellar
    logged ml-cellar-0.2.0 env CARGO_TARGET_DIR="$temporary/target" \
      cargo install ml-cellar --version 0.2.0 --locked --root "$temporary" || return
    rm -rf "$temporary/target" && mv "$temporary/bin/ml-cellar" "$temporary/ml-cellar"
    place "$dir"
  fi
  link ml-cellar-0.2.0 ml-cellar
}

# own_venv NAME VERSION: a virtual environment in the cache that holds what packaging/NAME.lock pins.
own_venv() {
  local dir=$cache/$1-$2 lock=$root/packaging/$1.lock
  if ! cmp -s "$lock" "$dir/$1.lock" || ! "$dir/bin/python" -c '' 2>/dev/null; then
    say "Installing $1 $2 (half a minute, once) …"
    fresh "$1"
    make_venv "$1" "$temporary" "$lock" 13 || return
    cp "$lock" "$temporary/"
    place "$dir"
  fi
}

install_localstack() {
  own_venv localstack 4.13.1
}

install_gto() {
  own_venv gto 1.10.1
}

install_ceph() {
  if have ceph && have ceph-mon && have ceph-osd && have radosgw && have radosgw-admin; then return; fi
  have apt-get || fail "Ceph is installed by apt-get here, and there is none: install ceph-mon, ceph-osd and radosgw yourself" || return
  apt_install ceph ceph-mon ceph-osd radosgw ceph-common
}

install_nss_wrapper() {
  if [ -z "$(LD_PRELOAD=libnss_wrapper.so env true 2>&1)" ]; then return; fi
  have apt-get || fail "nss-wrapper is installed by apt-get here, and there is none" || return
  apt_install nss-wrapper libnss-wrapper
}

# The development environment, made again when the lock or the project file has changed.
install_venv() {
  local dir=$1 stamp
  stamp=$(cat "$root/packaging/dev.lock" "$root/pyproject.toml" | cksum)
  if [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$stamp" ] && "$dir/bin/python" -c '' 2>/dev/null; then return; fi
  say "Setting up $dir (half a minute, once) …"
  if ! "$dir/bin/python" -c '' 2>/dev/null; then rm -rf "$dir"; fi
  make_venv venv "$dir" "$root/packaging/dev.lock" 99 || return
  if have uv; then
    logged venv uv pip install -q --no-deps --no-build-isolation --offline --python "$dir/bin/python" -e "$root" || return
  else
    logged venv "$dir/bin/python" -m pip install -q --disable-pip-version-check \
      --no-deps --no-build-isolation --no-index -e "$root" || return
  fi
  printf '%s\n' "$stamp" >"$dir/.stamp"
}

install_all_ci() {
  local failed= name
  for name in git-lfs git-lfs-newest versitygw localstack ceph nss-wrapper ml-cellar gto; do
    ( "install_${name//-/_}" ) || failed="$failed $name"
  done
  [ -z "$failed" ] || fail "not installed:$failed"
}

[ $# -gt 0 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 2; }
case $1 in
  venv) [ $# = 2 ] || fail "usage: install.sh venv DIR" || exit 2; install_venv "$2" ;;
  *)
    for name in "$@"; do
      case $name in
        git-lfs|git-lfs-newest|toxiproxy|versitygw|localstack|ml-cellar|gto|ceph|nss-wrapper|all-ci) "install_${name//-/_}" ;;
        *) fail "\"$name\" is not one of git-lfs, git-lfs-newest, toxiproxy, versitygw, localstack, ml-cellar, gto, ceph, nss-wrapper, all-ci" || exit 2 ;;
      esac
    done ;;
esac
