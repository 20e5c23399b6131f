# A Debian 12 of its own, in namespaces, with systemd as process 1. Sourced; for root, on Linux with
# mmdebstrap and cgroup2. Its network is the loopback alone, so all packages are in it beforehand.
#   root_make TAR      makes an archive of it, if there is none
#   root_boot TAR DIR  unpacks and boots it; root_end ends it
#   inside COMMAND…    runs in it

ROOT_PACKAGES=systemd,systemd-sysv,dbus,python3,adduser,ca-certificates,curl,haproxy,logrotate,nginx-light,openssl,sqlite3

root_make() {
    [ -s "$1" ] || mmdebstrap --quiet --variant=minbase --mode=root --include="$ROOT_PACKAGES" \
        bookworm "$1" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
}

root_boot() {
    ROOT_DIR=$2
    mkdir -p "$ROOT_DIR"
    tar -C "$ROOT_DIR" -xf "$1"
    : >"$ROOT_DIR/etc/machine-id"
    # It stands on folders of this machine's, and may not touch this machine's devices.
    ROOT_DIR=$ROOT_DIR unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child \
        bash -c '
            set -e
            ip link set lo up
            mount --make-rprivate /
            mount --bind "$ROOT_DIR" "$ROOT_DIR"
            cd "$ROOT_DIR"
            mount -t proc proc proc
            mount -t sysfs -o ro sysfs sys
            mount -t cgroup2 cgroup2 sys/fs/cgroup
            mount -t tmpfs -o mode=755 tmpfs run
            mount -t tmpfs -o mode=1777 tmpfs tmp
            mount -t tmpfs -o mode=755 tmpfs dev
            for node in null zero full random urandom tty; do
                touch dev/$node
                mount --bind /dev/$node dev/$node
            done
            mkdir dev/pts dev/shm
            mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
            ln -s pts/ptmx dev/ptmx
            ln -s /proc/self/fd dev/fd
            hostname clean-root
            # No chroot: in one, nobody may make namespaces of users (PrivateUsers=).
            pivot_root . .
            umount -l .
            exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
        ' </dev/null >/dev/null 2>&1 &
    ROOT_OUTER=$!
    local tries
    for tries in $(seq 100); do
        ROOT_INIT=$(ps -o pid= --ppid "$ROOT_OUTER" | tr -d ' ')
        if [ -n "$ROOT_INIT" ] && [ -S "$ROOT_DIR/run/systemd/private" ] ||
            { [ -n "$ROOT_INIT" ] && inside test -S /run/systemd/private 2>/dev/null; }; then
            inside systemctl is-system-running --wait >/dev/null 2>&1 || true
            return 0
        fi
        sleep 0.2
    done
    echo "systemd did not come up in $ROOT_DIR after $tries tries" >&2
    return 1
}

root_end() {
    [ -z "${ROOT_OUTER:-}" ] || kill -KILL "$ROOT_OUTER" 2>/dev/null || true
    wait "$ROOT_OUTER" 2>/dev/null || true
    ROOT_OUTER=
}

inside() {
    nsenter --target "$ROOT_INIT" --mount --pid --uts --ipc --net --cgroup --root \
        env -i --chdir=/ PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive "$@"
}
