# Sourced by scripts that prove something in a bare Debian 12 of its own. Needs root and debootstrap.
# The machine's own apt and pip configuration goes along, so that whatever mirrors it uses are used
# there too; none is named here.

# make_root DIRECTORY [PACKAGE,...]: a minimal system, unless one stands there already.
make_root() {
    local root=$1 packages=${2:-} mirror path tool
    [ "$(id -u)" = 0 ] || { echo "$0: needs root" >&2; return 2; }
    for tool in debootstrap unshare; do
        command -v "$tool" >/dev/null || { echo "$0: $tool is missing" >&2; return 2; }
    done
    if [ ! -e "$root/etc/debian_version" ]; then
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | head -n 1)
        debootstrap --variant=minbase --include="ca-certificates${packages:+,$packages}" bookworm "$root" "$mirror" \
            >"$root.log" 2>&1 || { tail "$root.log"; return 1; }
    fi
    chmod 755 "$root"  # mktemp's is closed to all but root
    for path in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/auth.conf.d \
                /etc/apt/trusted.gpg.d /etc/apt/keyrings /etc/pip.conf /etc/xdg/pip /usr/local/share/ca-certificates; do
        [ -e "$path" ] && mkdir -p "$root$(dirname "$path")" && cp -a "$path" "$root$(dirname "$path")/"
    done
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    binds=()
    while read -r path; do  # local package directories that pip is told of
        [ -e "$path" ] && binds+=("$path")
    done < <(python3 -m pip config list 2>/dev/null | grep -oE "(file://)?/[^' ]+" | sed 's,^file://,,; s,/simple$,,' | grep -v /etc/ | sort -u)
    inside "$root" 'update-ca-certificates >/dev/null 2>&1'
}

# inside DIRECTORY COMMAND: in mount and process namespaces of its own, which end with it.
inside() {
    unshare --mount --pid --fork --kill-child /bin/bash -euo pipefail -c '
        root=$1; command=$2; shift 2
        mount -t proc proc "$root/proc"
        mount --rbind --make-rslave /dev "$root/dev"
        for path in "$@"; do mkdir -p "$root$path"; mount --bind -o ro "$path" "$root$path"; done
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
            chroot "$root" /bin/bash -euo pipefail -c "$command"
    ' inside "$1" "$2" "${binds[@]}"
}
