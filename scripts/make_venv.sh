#!/bin/sh
# Make a virtual environment with pip in it, on a machine that has Python 3.11 or newer and perhaps nothing else.
# Debian splits Python into packages: without python3-venv, `python3 -m venv` cannot put pip into what it makes.
set -u
venv=${1:?usage: make_venv.sh FOLDER}

usable() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

if usable; then exit 0; fi

python=
for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Jielong needs Python 3.11 or newer, and found none. On Debian 12: apt-get install python3 python3-venv" >&2
    exit 1
fi

make_one() {
    rm -rf "$venv"
    "$python" -m venv "$venv" >/dev/null 2>&1 && usable && return
    # No ensurepip. A pip of the system's can install another into an environment that was made without.
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv" >/dev/null 2>&1 &&
        "$python" -m pip --quiet --python "$venv/bin/python" install pip >/dev/null 2>&1 && usable && return
    rm -rf "$venv"
    "$python" -m virtualenv --quiet "$venv" >/dev/null 2>&1 && usable
}

echo "making $venv with $($python --version)"
if make_one; then exit 0; fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "$python cannot make a virtual environment yet; installing Debian's python3-venv"
    { apt-get install -y -qq python3-venv || { apt-get update -qq && apt-get install -y -qq python3-venv; }; } >/dev/null 2>&1
    if make_one; then exit 0; fi
fi

rm -rf "$venv"
echo "$python cannot make a virtual environment: it has neither ensurepip nor pip. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2
exit 1
