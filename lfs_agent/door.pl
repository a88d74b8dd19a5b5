# door.pl COMMAND...: lets the loaded worker of this session fork one that takes our streams, and waits for its end; goes
# on as COMMAND where there is none. Perl has asked before Python would have started. The other end is in zygote.py.

# Name, parent, and start in ticks of a process.
sub process {
    open my $file, '<', "/proc/$_[0]/stat" or return '';
    local $/;
    <$file> =~ /\((.*)\) (.*)/s or return '';
    return $1, (split ' ', $2)[1, 19];
}

# The abstract socket of the git-lfs process that is the parent of a worker, maybe by a shell.
sub meeting_point {
    my ($pid, $name, $parent, $started) = ($_[0], process($_[0]));
    while ($name =~ /^(sh|dash|bash|zsh|busybox)$/) {
        ($pid, $name, $parent, $started) = ($parent, process($parent));
    }
    return sprintf "\0lfs-agent/%d/%d/%d/%d", $>, (stat '/proc/self/ns/pid')[1], $pid, $started;
}

# The exit status of a worker that was forked; nothing where none is.
sub forked {
    my $place = meeting_point(getppid);
    socket(my $link, 1, 5 | 2048, 0) or return;          # AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK
    connect($link, pack('S', 1) . $place) or return;     # without waiting: anybody may listen there
    my ($pid, $user) = unpack 'l2', getsockopt($link, 1, 17) // '';    # SOL_SOCKET, SO_PEERCRED
    defined $user && $user == $> && meeting_point((process($pid))[1]) eq $place or return;
    fcntl($link, 4, 0) or return;                        # F_SETFL: from now on it waits
    send($link, $ENV{LFS_AGENT_SAID}, 0x4000) or return; # MSG_NOSIGNAL
    my ($taken, $status, $end) = ('', '', '');
    recv($link, $taken, 1, 0);
    $taken eq '+' or return;
    recv($link, $status, 65536, 0);
    if ($status =~ s/^=//) {                             # nobody there can do what git-lfs asks for now
        $ENV{LFS_AGENT_SAID} =~ s/\n.*/\n$status/s;
        return;
    }
    recv($link, $end, 1, 0);                             # until it is gone
    return length $status ? ord $status : 1;             # nothing: it was killed
}

my $status = forked();
exit $status if defined $status;
exec @ARGV;
exit 126;
