#!/bin/busybox sh
# The first process of a booted kernel: it runs the lines that the test sends over the second serial port, and
# answers each with what it printed and its exit code. The first port is the kernel's.
/bin/busybox mkdir -p /dev /proc /run /sys /tmp
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in /modules/*; do insmod "$module"; done
ip link set lo up

# Not descriptor 3, where workers expect their first socket.
exec 8</dev/ttyS1 >/dev/ttyS1 2>&1 </dev/null
stty -echo -opost <&8
echo "<ready>"
# Not `read`: the end of a child in the background makes it forget the part of the line that it has.
while line=$(head -n 1 <&8); do
    eval "$line"
    printf '<%s>\n' $?
done
