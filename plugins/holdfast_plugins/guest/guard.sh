# Runs inside a Linux guest, under any POSIX shell, and sees to it that nothing stays frozen there.
#
#   guard.sh hold DIR SECONDS DATABASES PG_USER MYSQL_FILE      before the guest agent freezes
#   guard.sh session DIR SECONDS DATABASES PG_USER MYSQL_FILE   freezes by itself, until standard input says thaw or ends
#   guard.sh release DIR                                        after the thaw
#
# DIR is on tmpfs, made for this freeze alone, and called holdfast.XXXXXXXX. While DIR/armed is there a watchdog runs: it
# thaws after SECONDS, and once more every other second for two minutes, for an agent that hung may wake and freeze late.
# DATABASES: names, or "auto" for those that run. What was done to each is told as "database NAME held | failed REASON".
# Root in the guest. Nothing here may write to a file system that can be frozen.

PATH="$PATH:/usr/sbin:/sbin:/usr/bin:/bin"
PATIENCE_S=20
LATE_ROUNDS=60
cd /
umask 077
mode=$1 dir=$2

fail() {
    echo "failed $*"
    exit 1
}

# Mount points of file systems on disks, each device once, the last mounted first. A loop device's own file system
# would be frozen under it.
mount_points() {
    found='' seen=' '
    while read -r device point _; do
        case $device in /dev/loop*) continue ;; /dev/*) ;; *) continue ;; esac
        case $seen in *" $device "*) continue ;; esac
        seen="$seen$device "
        found="$point
$found"
    done </proc/mounts
    printf '%s' "$found"
}

# Prints how many were frozen until now.
thaw_all() {
    mount_points | {
        count=0
        while read -r point; do
            fsfreeze --unfreeze "$(printf '%b' "$point")" 2>/dev/null && count=$((count + 1))
        done
        echo "$count"
    }
}

# Prints how many are frozen now, and the first complaint. What cannot be frozen, such as FAT, is left out.
freeze_all() {
    mount_points | {
        count=0
        while read -r point; do
            if complaint=$(fsfreeze --freeze "$(printf '%b' "$point")" 2>&1); then
                count=$((count + 1))
            else
                case $complaint in *upported*) ;; *) echo "$count $complaint"; exit ;; esac
            fi
        done
        echo "$count"
    }
}

watch() {
    exec </dev/null >/dev/null 2>&1
    left=$deadline_s round=0
    while [ "$left" -gt 0 ]; do
        sleep 1
        [ -e "$dir/armed" ] || return
        left=$((left - 1))
    done
    : >"$dir/fired"
    thaw_all
    let_go "$dir"
    while [ -e "$dir/armed" ] && [ "$round" -lt $LATE_ROUNDS ]; do
        sleep 2
        thaw_all
        round=$((round + 1))
    done
    remove "$dir"
}

# What a session that died has left; its watchdog would thaw what is frozen next.
clear_others() {
    for other in /run/holdfast.* /dev/shm/holdfast.*; do
        if [ "$other" != "$dir" ] && [ -d "$other" ]; then
            rm -f "$other/armed"
            let_go "$other"
            remove "$other"
        fi
    done
}

# A client that was let go may make its last file while we remove; it makes no other.
remove() {
    rm -rf "$1" || rm -rf "$1"
}

# Let databases go on that are held back. To open a fifo waits for its reader, which may be gone.
let_go() {
    # shellcheck disable=SC2016
    [ ! -p "$1/mysql.release" ] || timeout 2 sh -c ': >"$0"' "$1/mysql.release" || :
}

runs() {
    cat /proc/[0-9]*/comm 2>/dev/null | grep -Eqx "$1"
}

# Whether a directory is on a disk, and so on what gets frozen.
on_disk() {
    case $(df -P "$1" 2>/dev/null | tail -n 1) in /dev/*) ;; *) return 1 ;; esac
}

one_line() {
    tail -n 3 | tr '\n' ' ' | cut -c1-400
}

# PostgreSQL is safe to copy at any one instant, by its log. The checkpoint makes the copy start at once.
hold_postgresql() {
    sql="CHECKPOINT;
SELECT setting FROM pg_settings WHERE name = 'data_directory'
UNION SELECT setting || '/pg_wal' FROM pg_settings WHERE name = 'data_directory'
UNION SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '';"
    servers=0
    for socket in /run/postgresql/.s.PGSQL.* /tmp/.s.PGSQL.*; do
        [ -S "$socket" ] || continue
        client="psql -X -A -t -q -v ON_ERROR_STOP=1 -h '${socket%/*}' -p '${socket##*.}' -d postgres"
        if ! told=$(printf '%s\n' "$sql" | timeout $PATIENCE_S su -s /bin/sh "$pg_user" -c "$client" 2>&1); then
            echo "database postgresql failed $socket: $(printf '%s' "$told" | one_line)"
            return
        fi
        elsewhere=$(printf '%s\n' "$told" | while read -r place; do on_disk "$place" || echo "$place"; done)
        if [ -n "$elsewhere" ]; then
            echo "database postgresql failed not on a disk of this guest: $(printf '%s' "$elsewhere" | one_line)"
            return
        fi
        servers=$((servers + 1))
    done
    if [ $servers -gt 0 ]; then
        echo "database postgresql held"
    else
        echo "database postgresql failed there is no socket of it in /run/postgresql or /tmp"
    fi
}

# A session that holds back all commits is kept open by a client whose input ends when somebody opens mysql.release.
hold_mysql() {
    if ! client=$(command -v mariadb || command -v mysql); then
        echo "database mysql failed there is no client program mariadb or mysql"
        return
    fi
    set -- "$client" ${mysql_file:+"--defaults-extra-file=$mysql_file"} --batch --skip-column-names
    if ! told=$(timeout $PATIENCE_S "$@" --execute='SELECT VERSION(); SELECT @@datadir' 2>&1); then
        echo "database mysql failed $(printf '%s' "$told" | one_line)"
        return
    fi
    version=$(printf '%s' "$told" | head -n 1) place=$(printf '%s' "$told" | tail -n 1)
    if ! on_disk "$place"; then
        echo "database mysql failed not on a disk of this guest: $place"
        return
    fi
    # MySQL's own statement for snapshots of file systems. While it waits for a query that runs, nobody else can write,
    # so whatever is open is closed before. LOCK INSTANCE FOR BACKUP would add nothing but a privilege to be granted.
    block='FLUSH LOCAL TABLES; FLUSH TABLES WITH READ LOCK;'
    case $version in
    5.* | 10.[0-3].*) ;;
    *MariaDB*) block='BACKUP STAGE START; BACKUP STAGE BLOCK_COMMIT;' ;;
    esac
    mkfifo "$dir/mysql.release"
    # By exec, for a shell keeps what it redirects otherwise, and the agent waits for the last that has its pipes.
    (
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=$((PATIENCE_S / 2)); SET SESSION wait_timeout=86400; $block SELECT 'held';"
        exec cat "$dir/mysql.release"
    ) | (
        exec >/dev/null 2>&1
        "$@" --unbuffered >"$dir/mysql.out" 2>&1
        : >"$dir/mysql.ended"
    ) &
    while [ -e "$dir/armed" ] && ! grep -qsx held "$dir/mysql.out"; do
        if [ -e "$dir/mysql.ended" ]; then
            echo "database mysql failed $(one_line <"$dir/mysql.out")"
            let_go "$dir"
            return
        fi
        sleep 0.05 2>/dev/null || sleep 1
    done
    echo "database mysql held"
}

hold() {
    deadline_s=$1 databases=$2 pg_user=$3 mysql_file=$4
    for program in fsfreeze timeout mkfifo; do
        command -v $program >/dev/null || fail "there is no program $program in the guest"
    done
    clear_others
    : >"$dir/armed"
    watch &
    if [ "$databases" = auto ]; then
        databases=
        if runs 'postgres|postmaster'; then databases=postgresql; fi
        if runs 'mariadbd|mysqld'; then databases="$databases mysql"; fi
    fi
    for database in $databases; do
        "hold_$database"
    done
}

# Tells when the watchdog has thawed, or a database was let go meanwhile.
release() {
    [ ! -e "$dir/fired" ] || echo fired
    [ ! -e "$dir/mysql.ended" ] || echo lost mysql
    rm -f "$dir/armed"
    let_go "$dir"
}

tell_deadline() {
    exec </dev/null 2>/dev/null
    while [ -e "$dir/armed" ] && [ ! -e "$dir/fired" ]; do
        sleep 1
    done
    [ ! -e "$dir/fired" ] || echo deadline
}

session() {
    trap '' HUP PIPE # whoever asked may be gone; what was begun is ended all the same
    hold "$@"
    told=$(freeze_all)
    case $told in
    *' '*)
        thaw_all >/dev/null
        release
        fail "${told#* }"
        ;;
    esac
    echo "frozen $told"
    {
        tell_deadline &
        cat
        echo gone
    } | {
        read -r why
        echo "thawed $why $(thaw_all)"
        release
        echo finished
        [ "$why" != gone ] || remove "$dir"
    }
}

shift 2
case $mode in
hold | release | session) "$mode" "$@" ;;
esac
