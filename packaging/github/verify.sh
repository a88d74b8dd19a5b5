#!/usr/bin/env bash
# What action.yml runs, in the checkout. Ends with the exit status of lfs-agent verify.
set -euo pipefail

refuse() { printf '::error title=LFS objects::%s\n' "$1"; exit "$2"; }

case ${BASE:-} in *[!0]*) ;; *) BASE= ;; esac # a new branch: GitHub says forty zeros
range=${RANGE:-${BASE:+$BASE..HEAD}}
range=${range:-HEAD}
first=${range%%..*}
git rev-parse --git-dir >/dev/null || refuse "git does not look into this checkout, see above" 3
git cat-file -e "$first^{commit}" 2>/dev/null ||
  refuse "the history is not here: give actions/checkout \`fetch-depth: 0\`" 3
if [ "${LFSCONFIG_MAY_CHANGE:-}" != true ] && [ "$first" != "$range" ]; then
  compared=0
  git diff --quiet "$range" -- .lfsconfig || compared=$?
  case $compared in
    0) ;;
    1) refuse "this change touches .lfsconfig, which leads everybody's objects elsewhere: somebody has to look at it" 1 ;;
    *) refuse "git cannot compare the ends of the range, see above" 3 ;;
  esac
fi
if [ -n "${PACKAGE:-}" ]; then
  python3 -I -m venv "$RUNNER_TEMP/lfs-agent" # without -I a venv.py of the change would be run
  "$RUNNER_TEMP/lfs-agent/bin/pip" install --quiet --disable-pip-version-check "$PACKAGE"
  PATH=$RUNNER_TEMP/lfs-agent/bin:$PATH
fi

# File names are the change's: the runner would obey a command in one, also in the middle of a line, and reads two
# streams in any order.
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
printf '::stop-commands::%s\n' "$token"
status=0
# shellcheck disable=SC2086 # several options
lfs-agent verify ${OPTIONS:-} "$range" 2>&1 >"$RUNNER_TEMP/lfs-objects.txt" || status=$?
cat "$RUNNER_TEMP/lfs-objects.txt"
printf '::%s::\n' "$token"
{
  echo "### LFS objects"
  echo '```'
  cat "$RUNNER_TEMP/lfs-objects.txt"
  echo '```'
} >>"$GITHUB_STEP_SUMMARY"
case $status in
  0) ;;
  1) refuse "objects that this change names are not in the bucket as they should be: push them (lfs-agent push-missing)" 1 ;;
  *) refuse "history or bucket could not be looked at, see above" "$status" ;;
esac
