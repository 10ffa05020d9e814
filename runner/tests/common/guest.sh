#!/bin/busybox sh
# A guest for tests: runs each line that comes in on the link, and ends its output with \001, its status and
# a line break.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /mnt
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec < /dev/console > /dev/console 2>&1
for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name)" = test ] && link=/dev/${port##*/}
done
echo "guest is up"
# Without a connection, a read from the port returns the end. Only one descriptor at a time may have the port open, so
# one serves both directions.
while [ -n "$link" ]; do
    while read -r line; do
        eval "$line"
        printf '\001%s\n' $?
    done <> $link >&0 2>&1
    sleep 0.1
done
echo "guest has no link"
grep -q fill-the-disk /proc/cmdline && yes 0123456789abcdef | dd of=/dev/vda bs=1M iflag=fullblock count=4000 conv=fsync
# A test that needs none says so.
grep -q without-a-link /proc/cmdline && sleep 1000
reboot -f
