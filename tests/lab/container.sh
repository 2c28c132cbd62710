#!/bin/sh
# Stands for `docker` before the vSphere simulator, which runs guests as containers: the "guest" is this machine itself, and
# programs run here, with the folder GUEST_MEMORY as their /dev/shm. Only what the simulator asks for is answered.
case $1 in
create) echo holdfast-lab ;;
inspect) echo '[{"State": {"Running": true, "Paused": false}, "NetworkSettings": {"Networks": {}}}]' ;;
events) exec cat >/dev/null ;; # until the simulator is gone
exec)
    shift
    [ "$1" = -i ] && shift
    shift # the container's name
    exec unshare --mount sh -ec 'mount --bind "$GUEST_MEMORY" /dev/shm; exec "$@"' sh "$@"
    ;;
esac
