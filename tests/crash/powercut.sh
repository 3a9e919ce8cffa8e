#!/bin/sh
# A real power cut, as often as asked for: see powercut.c.  Makes an ext4 image
# in a temporary directory (TMPDIR), which a failure keeps.
# Usage: tests/crash/powercut.sh POWERCUT [CYCLES [SEED]]
skip()
{
	echo "powercut: skipped: $1"
	exit 0
}
if [ ! -x "$1" ]
then
	echo "usage: tests/crash/powercut.sh POWERCUT [CYCLES [SEED]]" >&2
	exit 2
fi
test=$1
shift
PATH=$PATH:/sbin:/usr/sbin
[ "$(uname -s)" = Linux ] || skip "it needs Linux"
[ "$(id -u)" -eq 0 ] || skip "it needs root, to mount an image"
for tool in mkfs.ext4 mount umount
do
	command -v "$tool" >/dev/null 2>&1 || skip "there is no $tool"
done

dir=$(mktemp -d "${TMPDIR:-/tmp}/holdfast-powercut-XXXXXX") || exit 1
keep=no
finish()
{
	umount "$dir/mounted" 2>/dev/null
	# never into a file system that is still mounted
	rmdir "$dir/mounted" && [ "$keep" = no ] && rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

mkdir "$dir/mounted" || exit 1
# 512 MiB at most: it grows as it is used
dd if=/dev/zero of="$dir/image" bs=1048576 count=0 seek=512 2>/dev/null &&
	mkfs.ext4 -q -F "$dir/image" || exit 1
said=$(mount -o loop "$dir/image" "$dir/mounted" 2>&1) ||
	skip "an image cannot be mounted here: $said"
umount "$dir/mounted" || exit 1
if "$test" "$dir/image" "$dir/mounted" "$@"
then
	exit 0
fi
keep=yes
echo "powercut: the image is kept as $dir/image" >&2
exit 1
