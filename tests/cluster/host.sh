#!/bin/bash
# A machine for a test: run in new pid, mount, uts and ipc namespaces inside a network namespace, it makes a root of its
# own (a copy-on-write view of this machine's, in memory), starts sshd as the only service, and is the machine's pid 1.
# host.sh NAME FOLDER USER; FOLDER holds key.pub, host_key and image.sh, and gets `memory`, where the new root is.
# BINDS: folders, separated by colons, that the machine sees as they are here, read-only.
set -euo pipefail
name=$1 folder=$2 user=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$folder/memory"
mkdir "$folder/memory"/{upper,work,merged}
root=$folder/memory/merged
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/memory/upper,workdir=$folder/memory/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777,size=8g tmpfs "$root/dev/shm" # Ray's object store wants a third of the memory
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount --bind "$root/dev/pts/ptmx" "$root/dev/ptmx"
for private in tmp run root home; do mount -t tmpfs -o mode=755 tmpfs "$root/$private"; done
chmod 1777 "$root/tmp"
IFS=: read -ra binds <<<"$BINDS"
for bind in "${binds[@]}"; do
  mkdir -p "$root$bind"
  mount --bind "$bind" "$root$bind"
  mount -o remount,bind,ro "$root$bind"
done

hostname "$name"
echo "127.0.0.1 localhost $name" >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
chroot "$root" useradd -m -s /bin/bash -p '*' "$user" # '*': sshd refuses a locked account, which is '!'
home=$root/home/$user
mkdir "$home/.ssh" "$root/run/sshd"
cp "$folder/key.pub" "$home/.ssh/authorized_keys"
cp "$folder/image.sh" "$root/etc/profile.d/image.sh"
# What `make env` would install is there already, under the same names and newer than the lock.
mkdir -p "$home/lps/.venv"
ln -s "$VENV"/{bin,lib,pyvenv.cfg} "$home/lps/.venv/"
touch "$home/lps/.venv/.runtime"
chroot "$root" chown -R "$user:" "/home/$user"
install -m 600 "$folder/host_key" "$root/etc/ssh/test_host_key"
cd "$root"
pivot_root . . && umount -l . && cd / # and not chroot: what runs here must not find the way back
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin tini -g -- /usr/sbin/sshd -D -e -f /dev/null -h /etc/ssh/test_host_key \
  -o UsePAM=no -o PasswordAuthentication=no -o StrictModes=no -o UseDNS=no -o MaxStartups=100 -o PidFile=none
