#!/bin/sh
# The light door: `door.sh INTERPRETER WORKER`. git-lfs starts it eight times for one object, one after another, and waits
# for each answer to `init`: a shell has given that sooner than an interpreter, which is started for an object only.
IFS= TMOUT= read -r init || exit 0  # bash would wait no longer than $TMOUT
if ! [ -x "$1" ]; then
    printf '{"error":{"code":32,"message":"%s"}}\n' \
        'the Python that lfs-agent was installed with is gone, or you may not run it: install lfs-agent again, then run lfs-agent install'
    exit 1
fi
set -- "$1" -I -S "$2"
said="$init
"
case $init in
    '{"event":"init","operation":"upload",'*'}' | '{"event":"init","operation":"download",'*'}')
        printf '{}\n' || exit 1
        IFS= TMOUT= read -r request || exit 0
        case $request in
            *'"event":"terminate"'*) exit 0 ;;
        esac
        said="$said$request
"
        # With one of these Perl may load what it does not find, begin to debug, or change what is sent.
        [ -z "${PERL5OPT+x}${PERL_UNICODE+x}${PERLIO+x}" ] && [ -x /usr/bin/perl ] &&
            set -- /usr/bin/perl "${4%/*}/door.pl" "$@" ;;
esac
LFS_AGENT_SAID=$said exec "$@"
