#!/usr/bin/env bash
# peers.sh [NAME…]: the other agents and the yardsticks that `make bench` races, as far as this machine's registries have them.
#
#   git-remote-s3   0.4.2    Python, boto3          by pip
#   awscli          1.46.2   Python: `aws s3 cp`    by pip
#   s5cmd           2.2.2    Go                     by go
#   lfs-s3          0.2.2    Go, AWS SDK            by go
#   lfs-dal         0.1.3    Rust, OpenDAL          by cargo, 5 minutes
#   object-store    0.2.5    Rust, AWS SDK          by cargo, 9 minutes (git-remote-object-store)
#
# Without a name: all of them. They go into the cache (see install.sh); a program is linked from its bin/ when all of the
# build is there, and what has no link is built anew. What can't be had is said, and is no failure: the race names it as
# absent. Everything is built at the lowest priority. Written for bash 3.2.
set -euo pipefail

cache=${LFS_AGENT_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lfs-agent-tests}
PATH=$PATH:/usr/local/go/bin:$HOME/go/bin:$HOME/.cargo/bin:$HOME/.local/bin
renice -n 19 -p $$ >/dev/null 2>&1 || true

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

with_pip() {
  "${PYTHON:-python3}" -m venv "$dir"
  "$dir/bin/python" -m pip install -q --disable-pip-version-check "$1==$version"
}
# Not `go install`: that asks for the list of all versions too, which not every proxy gives.
with_go() {
  local module
  module=$(env -u GOFLAGS go mod download -json "$1@v$version" | tee /dev/stderr | sed -n 's/^.*"Dir": "\(.*\)",*$/\1/p')
  cp -R "$module" "$dir/src"
  chmod -R u+w "$dir/src"
  rm -rf "$dir/src/vendor"  # a module's archive holds no more of it than its table of contents
  (cd "$dir/src" && env GOFLAGS=-buildvcs=false go build -o "$dir/bin/$2" .)
  rm -rf "$dir/src"
}
with_cargo() {
  CARGO_TARGET_DIR="$dir/target" cargo install "$1" --version "$version" --locked --root "$dir"
  rm -rf "$dir/target"
}

# peer NAME VERSION TOOL PACKAGE PROGRAM…: builds it with pip, go or cargo, and links its programs.
peer() {
  local name=$1 version=$2 tool=$3 package=$4 dir=$cache/$1-$2 log=$cache/log/$1-$2.log program; shift 4
  if [ ! -x "$cache/bin/$1" ]; then
    if [ "$tool" != pip ] && ! have "$tool"; then say "$name $version: absent, $tool is not here"; return; fi
    say "$name $version: building with $tool …"
    rm -rf "$dir"; mkdir -p "$dir" "$cache/bin" "$cache/log"
    # In a process of its own, so that its first error ends it.
    if ! (export -f "with_$tool"; export dir version; bash -euo pipefail -c "with_$tool $package $1") </dev/null >"$log" 2>&1; then
      rm -rf "$dir"
      say "$name $version: absent, see $log: $(tail -n 1 "$log" | cut -c 1-200)"
      return
    fi
    for program in "$@"; do ln -sfn "../$name-$version/bin/$program" "$cache/bin/$program"; done
  fi
  say "$name $version: here"
}

[ $# -gt 0 ] || set -- git-remote-s3 awscli s5cmd lfs-s3 lfs-dal object-store
for name in "$@"; do
  case $name in
    git-remote-s3) peer git-remote-s3 0.4.2 pip git-remote-s3 git-lfs-s3 git-remote-s3 ;;
    awscli) peer awscli 1.46.2 pip awscli aws ;;
    s5cmd) peer s5cmd 2.2.2 go github.com/peak/s5cmd/v2 s5cmd ;;
    lfs-s3) peer lfs-s3 0.2.2 go github.com/nicolas-graves/lfs-s3 lfs-s3 ;;
    lfs-dal) peer lfs-dal 0.1.3 cargo lfs-dal lfs-dal ;;
    object-store) peer object-store 0.2.5 cargo git-remote-object-store-cli git-lfs-object-store git-remote-s3+http ;;
    *) say "peers: \"$name\" is not one of git-remote-s3, awscli, s5cmd, lfs-s3, lfs-dal, object-store"; exit 2 ;;
  esac
done
