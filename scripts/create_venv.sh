#!/bin/sh
# Create a virtual environment with the first Python >= 3.11 found. Usage: create_venv.sh DIRECTORY
# Needs nothing but a shell, so that it can say what is missing on a fresh machine.
set -eu

venv=$1

recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

fail() {
    echo "make env: error: $1" >&2
    exit 1
}

if [ -x "$venv/bin/python" ] && recent "$venv/bin/python" &&
    "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

python=
for candidate in python3 python3.13 python3.12 python3.11; do
    if recent "$candidate"; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "no Python >= 3.11 among python3, python3.13, python3.12, python3.11;\
 install one, for example: apt-get install python3.11 python3.11-venv"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# Debian and Ubuntu split ensurepip, without which no environment gets pip, from Python itself.
if ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then
    package=python$version-venv
    echo "make env: $python has no ensurepip; it comes with the package $package" >&2
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "install the venv support (ensurepip) of Python $version, then run make env again"
    elif [ "$(id -u)" -eq 0 ]; then
        sudo=
    elif command -v sudo >/dev/null 2>&1; then
        sudo=sudo
    else
        fail "run this as root, then make env again: apt-get install $package"
    fi
    echo "make env: installing $package" >&2
    if ! $sudo apt-get install -y "$package"; then
        # A fresh machine has no package lists yet.
        $sudo apt-get update && $sudo apt-get install -y "$package" ||
            fail "could not install $package; run: $sudo apt-get install $package"
    fi
fi

echo "make env: creating $venv with $python ($version)"
"$python" -m venv --clear "$venv"
